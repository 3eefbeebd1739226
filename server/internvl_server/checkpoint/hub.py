"""Downloads a checkpoint from the Hugging Face hub, file by file, so that a second call continues the first.

Files that are complete are kept and not fetched again. The hub's library continues a file after a broken
connection, but not in another call.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from internvl_server.checkpoint.weights import inspect_weights
from internvl_server.errors import StartupError

__all__ = ["NEEDED", "NESTED", "Download", "Repository", "find_repository_files"]

NEEDED = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")
"""The files that the server reads: configs, tokenizer, template, weights and their index."""
NESTED = "*/*"
"""Other versions of a model, such as for ONNX, which are in folders."""

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Repository:
    """What the server needs of a hub repository: the names of files in a commit, and their sizes in bytes.

    `revision` is the name by which the commit was asked for; empty for the default branch.
    """

    name: str
    revision: str
    commit: str
    files: Mapping[str, int]


def find_repository_files(name: str, revision: str = "") -> Repository:
    """Ask the hub for the files of a repository.

    Args:
        name: Owner and name.
        revision: Branch, tag or commit; empty means the default branch.

    Raises:
        StartupError: The hub cannot be reached, the repository or the revision does not exist or is not
            accessible, or it is no checkpoint in safetensors.
    """
    # Imported here: most deployments serve a folder and need no hub client.
    from huggingface_hub import HfApi  # noqa: PLC0415

    with _explained(name, revision):
        info = HfApi().model_info(name, revision=revision or None, files_metadata=True)
    files = {
        one.rfilename: one.size or 0 for one in info.siblings or () if _is_needed(one.rfilename)
    }
    if "config.json" not in files or not any(file.endswith(".safetensors") for file in files):
        raise StartupError(
            f"{name} is not a checkpoint that can be served: it has no config.json, or no safetensors files."
        )
    return Repository(name, revision, str(info.sha), files)


def _is_needed(file: str) -> bool:
    return not fnmatch(file, NESTED) and any(fnmatch(file, pattern) for pattern in NEEDED)


class Download:
    """The files of a repository in one place.

    Args:
        repository: What to download.
        folder: Where to, as plain files; None: the cache of the hub's library, where `serve` looks.
        cache_dir: Another folder for that cache.
    """

    def __init__(self, repository: Repository, folder: Path | None, cache_dir: str = "") -> None:
        self._repository = repository
        self._folder = folder
        self._cache_dir = cache_dir or None

    def missing(self) -> dict[str, int]:
        """The files that are not complete yet, and their sizes in bytes."""
        files = self._repository.files
        return {name: size for name, size in files.items() if not self._is_complete(name)}

    def check_room(self) -> None:
        """Refuse a disk without room for what is missing.

        Raises:
            StartupError: Names both sizes.
        """
        place = (self._folder or self._cache()).absolute()
        parent = next(one for one in (place, *place.parents) if one.is_dir())
        needed, free = sum(self.missing().values()), shutil.disk_usage(parent).free
        if needed > free:
            raise StartupError(
                f"{self._repository.name} needs {needed / _GIB:.1f} GiB more, and the disk of {place} has "
                f"{free / _GIB:.1f} GiB of free space. Choose another folder with --to."
            )

    def run(self, begin: Callable[[str, int], None]) -> Path:
        """Download what is missing, and check that everything is whole.

        Args:
            begin: Called with name and size before each file.

        Returns:
            The folder of the checkpoint.

        Raises:
            StartupError: A file cannot be downloaded; or one is not whole although it was.
        """
        # By the name of the revision, which the cache then knows when there is no network.
        self._fetch("config.json", self._repository.revision or None)
        for name, size in self.missing().items():
            begin(name, size)
            self._fetch(name, self._repository.commit)
        problems = [f"{name} is not complete" for name in self.missing()]
        config = self._path("config.json")
        if config is not None:
            problems += inspect_weights(config.parent).problems
        if problems or config is None:
            raise StartupError(
                f"{self._repository.name} was downloaded, but {'; '.join(problems)}. Run the command "
                "again; if that does not help, the repository itself is damaged."
            )
        return config.parent

    def _fetch(self, name: str, revision: str | None) -> None:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415

        with _explained(self._repository.name, self._repository.commit):
            hf_hub_download(
                self._repository.name,
                name,
                revision=revision,
                local_dir=self._folder,
                cache_dir=self._cache_dir,
                force_download=self._path(name) is not None and not self._is_complete(name),
            )

    def _is_complete(self, name: str) -> bool:
        path = self._path(name)
        return path is not None and path.stat().st_size == self._repository.files[name]

    def _path(self, name: str) -> Path | None:
        """Where the file is, complete or not; None if it is not there."""
        from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415

        if self._folder is not None:
            path = self._folder / name
            return path if path.is_file() else None
        repository = self._repository
        found = try_to_load_from_cache(
            repository.name, name, cache_dir=self._cache_dir, revision=repository.commit
        )
        return Path(found) if isinstance(found, str) else None

    def _cache(self) -> Path:
        from huggingface_hub.constants import HF_HUB_CACHE  # noqa: PLC0415

        return Path(self._cache_dir or HF_HUB_CACHE)


@contextmanager
def _explained(name: str, revision: str) -> Iterator[None]:
    """Turn what the hub's library raises into a sentence with what to do."""
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as err:
        raise StartupError(
            f"{name} is gated. Accept its conditions on its page on the hub, and set HF_TOKEN to a token of "
            "that account."
        ) from err
    except RepositoryNotFoundError as err:
        raise StartupError(
            f"There is no repository {name} on the hub, or it is private: then set HF_TOKEN."
        ) from err
    except RevisionNotFoundError as err:
        raise StartupError(f"{name} has no revision {revision!r} on the hub.") from err
    except OfflineModeIsEnabled as err:
        raise StartupError(
            f"{name} cannot be downloaded, because HF_HUB_OFFLINE is set. Unset it."
        ) from err
    except (
        Exception
    ) as err:  # the library raises what its HTTP library does, which depends on its version
        reason = str(err).strip().splitlines() or [""]
        raise StartupError(
            f"{name} could not be downloaded from the hub ({type(err).__name__}: {reason[0]}). Files "
            "that are complete are kept: run the command again to continue. Without a network, copy the "
            "folder of a checkpoint to this machine and serve it."
        ) from err
