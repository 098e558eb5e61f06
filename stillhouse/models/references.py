"""What a model is called, and the folder in which it lies.

In: `tiny` (the model that ships), the name of a fetched model, a local Hugging Face folder, a GGUF file, or a hub id,
with the home in which fetched models are looked for first. Out: a folder. A GGUF file is converted once (`gguf.py`).

It does not know how a model is loaded, nor which of the models is the small one.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download

from ..errors import ModelError, first_line
from ..weights.places import find, present
from ..weights.published import all_published
from .gguf import SUFFIX, converted, is_gguf
from .text_model import TextModel

DEFAULT = "tiny"
ALLOWED = "a model is 'tiny', the name of a fetched one, a Hugging Face folder, a GGUF file or a hub id 'owner/name'"
FINGERPRINTS = "fingerprints.json"  # in a home: digests of files by path, size and time
_ASSETS = Path(__file__).parents[1] / "assets"
_WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


def locate(ref: str, home: Path | None = None) -> Path:
    """The folder of a reference: a GGUF file is converted, a hub id fetched from the hub, where that is yet to do.

    `ModelError` says what there can be, and of a model that is to be fetched by name, by which command.
    """
    if (folder := here(ref, home)) is not None:
        return folder
    if ref in all_published():
        raise ModelError(f"{ref}: not fetched yet; run: stillhouse models fetch {ref}")
    if ref.count("/") != 1 or ref.startswith((".", "/", "~")) or ref.endswith(SUFFIX):
        names = ", ".join(dict.fromkeys(folder.name for folder in present(home)))
        raise ModelError(f"{ref}: no such model; {ALLOWED}. Fetched are: {names or 'none'}")
    try:
        return Path(snapshot_download(ref, allow_patterns=list(_WANTED)))
    except Exception as error:  # the hub's client raises a dozen unrelated kinds: network, auth, missing, offline
        raise ModelError(f"{ref}: not a folder here, and the hub did not give it: {first_line(error)}") from error


def here(ref: str, home: Path | None = None) -> Path | None:
    """The folder of a reference to something on this machine; None for a hub id, and for what is not there."""
    if ref == DEFAULT:
        return _ASSETS / DEFAULT
    path = Path(ref).expanduser()
    if is_gguf(path):
        return converted(path.resolve(), home, digests(home))
    if path.is_file():
        raise ModelError(f"{ref}: a file, but no {SUFFIX} one; {ALLOWED}")
    return path.resolve() if path.is_dir() else find(ref, home)


def digests(home: Path | None) -> Path | None:
    """Where digests of files are remembered; None without a home, or before there is one."""
    return home / FINGERPRINTS if home and home.is_dir() else None


def recorded(model: TextModel) -> str:
    """How results name their base: by its hub id, or else by its folder's absolute path, as PEFT takes them."""
    return model.ref if "/" in model.ref and not Path(model.ref).expanduser().exists() else str(model.path)


def found_again(reference: str, home: Path | None = None) -> str:
    """What to load a recorded model by here. Another installation keeps what ships in another folder, and a home may
    have moved: where the folder is gone, the model goes by its name."""
    path = Path(reference)
    if not path.is_absolute() or path.exists():
        return reference
    if path.parts[-2:] == (_ASSETS.name, DEFAULT):
        return DEFAULT
    return path.name if path.parent.name == "models" and find(path.name, home) else reference
