"""Archives of files, which show what zeros and few bits are worth where a format does not leave them out."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

__all__ = ["zip_files"]


def zip_files(files: Iterable[Path], archive: Path) -> int:
    """Write files into a zip archive with DEFLATE at its highest level; the archive's size in bytes."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for each in files:
            packed.write(each, each.name)
    return archive.stat().st_size
