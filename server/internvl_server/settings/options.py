"""The settings as command-line options: one option per setting, and short names for the common ones.

pydantic-settings generates the options and their help texts from the types and docstrings of the settings.
`at_least` and `server_url` are types of other arguments, which several commands have; `without_credentials`
is for what they show.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit

from pydantic_settings import CliSettingsSource

from internvl_server.settings import DEMO_MODEL, Settings

__all__ = ["OptionsFormatter", "SettingsOptions", "at_least", "server_url", "without_credentials"]

# Setting → its short names. The first is this server's, others are those of LMDeploy and vLLM.
_SHORT_NAMES: Mapping[str, tuple[str, ...]] = {
    "model.path": ("--model",),
    "model.served_name": ("--served-model-name", "--model-name"),
    "model.max_model_len": ("--max-model-len", "--session-len"),
    "model.template": ("--chat-template",),
    "model.revision": ("--revision",),
    "model.download_dir": ("--download-dir",),
    "server.host": ("--host", "--server-name"),
    "server.port": ("--port", "--server-port"),
    "server.api_keys": ("--api-key",),
    "server.keys_file": ("--keys-file",),
    "server.allowed_origins": ("--allowed-origin",),
    "engine.kind": ("--engine", "--backend"),
    "engine.dtype": ("--dtype",),
    "engine.max_num_seqs": ("--max-num-seqs", "--max-batch-size"),
    "engine.turbomind.tp": ("--tp", "--tensor-parallel-size"),
    "engine.turbomind.quant_policy": ("--quant-policy",),
    "engine.turbomind.cache_max_entry_count": ("--cache-max-entry-count",),
    "engine.turbomind.model_format": ("--model-format",),
    "engine.turbomind.enable_prefix_caching": ("--enable-prefix-caching",),
    "engine.turbomind.max_prefill_token_num": ("--max-prefill-token-num",),
    "log.level": ("--log-level",),
}


class OptionsFormatter(argparse.HelpFormatter):
    """Shows the metavar of an option once, after all its names (as Python 3.13 does)."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        metavar = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {metavar}"


class SettingsOptions:
    """The options of one command that stand for settings.

    Args:
        parser: Receives the options, the common ones in a group before those of each section.
        without: Settings that have no effect on the command.
    """

    def __init__(
        self, parser: argparse.ArgumentParser, without: frozenset[str] = frozenset()
    ) -> None:
        self._without = without
        self._names: dict[str, tuple[str, ...]] = {}  # setting → names of its option
        self._common: dict[str, dict[str, Any]] = {}  # setting → arguments of `add_argument`
        common = parser.add_argument_group("common options")
        CliSettingsSource[Any](
            Settings,
            root_parser=parser,
            cli_kebab_case=True,
            cli_implicit_flags=True,
            cli_use_class_docs_for_groups=True,
            add_argument_method=self._add,
        )
        for key in [key for key in _SHORT_NAMES if key not in without]:
            common.add_argument(*self._names[key], **self._common[key])
            if self._common[key].get("action") == "append":
                self._add_plural(common, key)
        common.add_argument(
            "--config", metavar="FILE", help="TOML file with settings, or the name of a shipped one"
        )
        common.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="SECTION.KEY=VALUE",
            help="any setting, e.g. --set media.max_images=4; lists are written as JSON; repeatable",
        )

    def _add_plural(self, group: argparse._ArgumentGroup, key: str) -> None:
        """Add the form of a repeatable option that takes several values, as LMDeploy's `--api-keys`."""
        one = self._names[key][0]
        values = {"action": "extend", "nargs": "+", "help": f"several values of {one}"}
        group.add_argument(f"{one}s", **self._common[key] | values)
        self._names[key] += (f"{one}s",)

    def _add(
        self,
        group: argparse._ArgumentGroup,
        *names: str,
        **kwargs: Any,  # noqa: ANN401 - as `add_argument` takes them
    ) -> None:
        """Called by pydantic-settings in place of `ArgumentParser.add_argument`."""
        key = kwargs["dest"]
        if key in self._without or kwargs.get("const") == "{}":  # a whole section as JSON
            return
        metavar = kwargs.get("metavar", "")
        if metavar:
            kwargs["metavar"] = _metavar(metavar)
        text = kwargs["help"].replace(str(DEMO_MODEL), "the bundled demo model")
        for nothing in ("", "()", "None"):
            text = text.removesuffix(f" (default: {nothing})")
        kwargs["help"] = text
        self._names[key] = (*_SHORT_NAMES.get(key, ()), *names)
        if key in _SHORT_NAMES:
            self._common[key] = kwargs
        else:
            group.add_argument(*names, **kwargs)

    def overrides(self, options: argparse.Namespace) -> dict[str, Any]:
        """The settings given as options, nested by section.

        Raises:
            ValueError: An option cannot be understood; names the option.
        """
        tree: dict[str, Any] = {}
        for key, names in self._names.items():
            if hasattr(options, key):
                _put(tree, key, getattr(options, key), names[0])
        for assignment in options.set:
            key, equals, value = assignment.partition("=")
            if not equals or "." not in key:
                raise ValueError(f"--set {assignment!r}: write SECTION.KEY=VALUE")
            _put(tree, key, value, f"--set {key}")
        return tree

    def describe(self, location: Sequence[str | int], arguments: Sequence[str]) -> str:
        """Name a setting by the option the user typed, if there is one, and by its key.

        Args:
            location: The setting's sections and key, perhaps followed by the index of a list item.
            arguments: The command line.
        """
        key = ".".join(step for step in location if isinstance(step, str))
        typed = [argument.partition("=")[0] for argument in arguments]
        for name in self._names.get(key, ()):
            if name in typed:
                return f"{name} ({key})"
        is_set = any(word.removeprefix("--set=").startswith(f"{key}=") for word in arguments)
        return f"--set {key}" if is_set else key

    def alike(self, key: str) -> str | None:
        """The setting that this key, which is none, may mean: of that name elsewhere, or alike."""
        name = key.rpartition(".")[2]
        elsewhere = [known for known in self._names if known.rpartition(".")[2] == name]
        return next(iter(elsewhere or get_close_matches(key, self._names, n=1, cutoff=0.8)), None)


def _metavar(type_name: str) -> str:
    """The placeholder of a value: its choices, or the name of its type."""
    if type_name == "{Path,null}":
        return "FILE"
    if type_name.startswith("{"):
        return type_name.replace("{,", "{")  # an empty string is the default
    return "VALUE" if "[" in type_name else type_name.upper()


def _put(tree: dict[str, Any], key: str, value: object, option: str) -> None:
    *sections, name = key.split(".")
    table = tree
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ValueError(f"{option}: {section} is a setting, not a section")  # noqa: TRY004
    table[name] = _decode(value, option)


def _decode(value: object, option: str) -> object:
    """Parse lists written as JSON, as in the environment; join the values of a repeated option."""
    if isinstance(value, list):
        decoded = [_decode(item, option) for item in value]
        return [item for part in decoded for item in (part if isinstance(part, list) else [part])]
    if not isinstance(value, str) or not value.startswith("["):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError(f"{option}: a value that begins with [ must be a JSON list") from None


def server_url(text: str) -> str:
    """The address of a server without `/v1`, of an argument.

    Raises:
        ArgumentTypeError: It is none.
    """
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError(
            f"{without_credentials(text)!r}: write http://HOST:PORT/v1"
        )
    return text.rstrip("/").removesuffix("/v1")


def without_credentials(url: object) -> str:
    """A URL that may be shown and stored."""
    return re.sub(r"[^/]*@", "***@", str(url))


def at_least(minimum: int) -> Callable[[str], int]:
    """The type of an argument that is an integer of at least a minimum."""

    def integer(text: str) -> int:
        if int(text) < minimum:
            raise argparse.ArgumentTypeError(f"it must be at least {minimum}")
        return int(text)

    return integer
