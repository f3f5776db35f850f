"""Downloads recipes from repositories of the Hugging Face Hub: `hub:team/name@revision`."""

from __future__ import annotations

import re
from pathlib import Path

from paredown.framework.errors import RecipeError, first_line
from paredown.framework.recipe.tree.positions import Position

__all__ = ["PREFIX", "hub_file"]

PREFIX = "hub:"
#: the files that are looked for where an address names none, in this order
FILES = ("recipe.yaml", "recipe.yml", "README.md")
_ADDRESS = re.compile(r"hub:(?P<repository>[\w.-]+/[\w.-]+)(?P<file>(?:/[\w.-]+)+)?(?:@(?P<revision>[\w./-]+))?")


def hub_file(address: str) -> Path:
    """The local copy of a recipe in a repository; it is downloaded unless it is in the cache.

    Args:
        address: ``hub:team/name``, with ``/folder/file.yaml`` where it is not recipe.yaml or the README's front matter,
            and ``@revision`` (a branch, a tag or a commit; the default branch without).

    Raises:
        RecipeError: huggingface_hub is missing, the address is malformed, or there is no such file.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise RecipeError([Position(address).mistake("write hub:team/name, hub:team/name/file.yaml, with @revision")])
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError:
        message = "needs the package huggingface_hub: pip install 'paredown[huggingface]'"
        raise RecipeError([Position(address).mistake(message)]) from None
    wanted = (match["file"].lstrip("/"),) if match["file"] else FILES
    try:
        for name in wanted:
            try:
                return Path(hf_hub_download(match["repository"], name, revision=match["revision"]))
            except EntryNotFoundError:
                continue
    except (OSError, ValueError) as error:  # HTTP errors are OSErrors
        raise RecipeError([Position(address).mistake(f"cannot be read: {first_line(error)}")]) from None
    raise RecipeError([Position(address).mistake(f"the repository has no {' and no '.join(wanted)}")])
