"""Work that is done once: a folder for it, and in the folder a mark, which is written last.

In: where the mark lies, how the result is read, and what makes it. Out: the result. A folder is named by the digest of
its work's inputs, so equal inputs find the same folder. Where the mark is there, the work is finished and its result is
read. Where it is not, the work is done in the folder, beside whatever a killed run left there, and the mark comes last.
So a command that was killed is simply run again. Processes that do the same work at once disturb nobody: each writes
the mark whole, and equal inputs give equal results.

It does not know what the inputs are, who names the folders, or what a result is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from .errors import StillhouseError, StoreError
from .storage.files import make_folder, write_atomic

R = TypeVar("R")
K = TypeVar("K")


@dataclass(frozen=True)
class Work(Generic[R]):
    """One piece of work, finished or not."""

    mark: Path
    """The file that is written last. It stands in the folder where the work is done."""
    load: Callable[[Path], R]
    """Reads the result, given the mark. For a damaged file it raises a `StillhouseError`, or what reading malformed
    JSON raises: `ValueError`, `KeyError`, `TypeError` or `AttributeError`."""

    @property
    def folder(self) -> Path:
        """Where the work is done. It need not exist before the work begins."""
        return self.mark.parent

    @property
    def finished(self) -> bool:
        """Whether the mark is there."""
        return self.mark.exists()

    def finish(self, content: bytes) -> None:
        """Write the mark. Everything else that belongs to the result must have been written."""
        make_folder(self.folder)
        write_atomic(self.mark, content)

    def result(self) -> R:
        """The result of finished work. `StoreError` where a file of it is missing or damaged."""
        again = f"remove {str(self.mark)!r} and run the command again"
        try:
            return self.load(self.mark)
        except FileNotFoundError as error:
            raise StoreError(f"{str(error.filename)!r} is missing, so work is not finished; {again}") from error
        except StillhouseError as error:
            raise StoreError(f"finished work is damaged: {error}; {again}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"finished work is damaged ({type(error).__name__}: {error}); {again}") from error

    def once(self, make: Callable[[Path], bytes | None]) -> R:
        """The result, made now where the work is not finished.

        `make` gets the folder, which exists and holds whatever a killed run left. It returns the content of the mark,
        or None where it has written the mark itself.
        """
        if not self.finished:
            make_folder(self.folder)
            content = make(self.folder)
            if content is not None:
                self.finish(content)
        return self.result()


def complete(works: Mapping[K, Work[R]], make: Callable[[Sequence[K]], Iterable[tuple[K, bytes]]]) -> None:
    """Finish several pieces of work together; `make` gets the names of those that are not finished, unless none is.

    It yields names with the contents of their marks. Each is finished as it comes, so what came before a kill is kept.
    """
    missing = [name for name, work in works.items() if not work.finished]
    for name, content in make(missing) if missing else ():
        works[name].finish(content)
