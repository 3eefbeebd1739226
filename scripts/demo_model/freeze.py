"""Write the images, questions and expected answers that the server's tests use.

Usage, from the repository root: ``python -m scripts.demo_model.freeze [--out tests/data/demo]``
"""

from __future__ import annotations

import argparse
from pathlib import Path

from scripts.demo_model.exam.frozen import FrozenExam


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("tests/data/demo"))
    FrozenExam(parser.parse_args().out).write()


if __name__ == "__main__":
    main()
