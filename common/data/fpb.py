"""
Financial PhraseBank v1.0 (Malo et al. 2014), as its authors released it.

Four files, one for each least share of annotators that agree; every line is
"sentence@label", in latin-1 with CRLF. A sentence may hold an "@" itself: the last one counts.
The data are CC BY-NC-SA 3.0: for non-commercial use.
"""

import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from common.config.data import FPB_REPOSITORY, Columns, FpbData
from common.data.files import check_file, jsonl_cells
from common.data.rows import Origin, Row, rows_of
from common.errors import InputError

HUB_FILE = "data/FinancialPhraseBank-v1.0.zip"  # `datasets` >= 4 runs no loading script
FILES = {
    50: "Sentences_50Agree.txt",
    66: "Sentences_66Agree.txt",
    75: "Sentences_75Agree.txt",
    100: "Sentences_AllAgree.txt",
}


def fpb_rows(config: FpbData) -> Iterator[Row]:
    """
    The sentences that reach the asked agreement, in the order of the 50Agree file.

    Ids are fpb-0000 … by the line of that file; meta["agreement"] is the highest level whose
    file holds the sentence. Without the 50Agree file the lowest file there gives order and ids.
    """
    path = config.path or download()
    if path.suffix == ".jsonl":
        yield from _jsonl_rows(path, config.agreement)
    else:
        yield from _release_rows(path, config.agreement)


def download() -> Path:
    """The release's zip from the hub (or its local cache). Raises InputError when out of reach."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(FPB_REPOSITORY, HUB_FILE, repo_type="dataset"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"the Financial PhraseBank could not be fetched from the hub ({FPB_REPOSITORY}: "
            f"{str(error).strip().splitlines()[0]}); download FinancialPhraseBank-v1.0.zip "
            "elsewhere and set data.path to it."
        ) from error


def _jsonl_rows(path: Path, agreement: int) -> Iterator[Row]:
    columns = Columns(text="sentence", meta=["agreement"])
    for row in rows_of(jsonl_cells(path), columns, Origin(str(path), "line", None, "fpb"), False):
        level = (row.meta or {}).get("agreement")
        if level not in FILES:
            raise InputError(f"{row.place}: 'agreement' is {level!r}, expected one of {[*FILES]}.")
        if level >= agreement:
            yield row


def _release_rows(path: Path, agreement: int) -> Iterator[Row]:
    lines = _read_release(path)
    if agreement not in lines:
        raise InputError(
            f"{path} does not hold {FILES[agreement]}; data.path takes the folder or zip of "
            f"the release (found: {', '.join(FILES[n] for n in lines) or 'none of its files'})."
        )
    base = min(lines)
    origin = Origin(f"{path}/{FILES[base]}", "line")
    prefix = "fpb" if base == min(FILES) else f"fpb{base}"
    for index, (line, level) in enumerate(_with_agreement(lines, base)):
        sentence, at, label = line.rpartition("@")
        if not at or not sentence.strip():
            raise InputError(
                f"line {index + 1} of {origin.name} is not of the form sentence@label."
            )
        if level >= agreement:
            name = f"{prefix}-{index:04d}"
            yield Row(origin, index + 1, name, sentence, label.strip(), None, {"agreement": level})


def _with_agreement(lines: Mapping[int, list[str]], base: int) -> Iterator[tuple[str, int]]:
    """
    Each line of the lowest file with the highest level it reaches.

    A line that stands twice in one file and once in the next reaches the next level once.
    """
    left = {level: Counter(held) for level, held in lines.items()}
    for line in lines[base]:
        reached = [level for level in lines if left[level][line] > 0]
        for level in reached:
            left[level][line] -= 1
        yield line, max(reached)


def _read_release(path: Path) -> dict[int, list[str]]:
    """Lines of the files that are there, by agreement, lowest first."""
    raw = _folder_bytes(path) if path.is_dir() else _zip_bytes(path)
    return {
        level: [
            line
            for line in raw[name].decode("latin-1").replace("\r", "").split("\n")
            if line.strip()
        ]
        for level, name in FILES.items()
        if name in raw
    }


def _folder_bytes(path: Path) -> dict[str, bytes]:
    found = {name: sorted(path.glob(f"**/{name}")) for name in FILES.values()}
    return {name: paths[0].read_bytes() for name, paths in found.items() if paths}


def _zip_bytes(path: Path) -> dict[str, bytes]:
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                PurePosixPath(name).name: archive.read(name)
                for name in archive.namelist()
                if PurePosixPath(name).name in FILES.values()
            }
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{path} is neither a folder, a .jsonl nor a zip file ({error}); data.path takes "
            "the Financial PhraseBank's release."
        ) from error
