"""Under which licence the makers of base weights give them away, as far as it is known here."""

import re
from pathlib import Path
from typing import Any

import yaml

from student.export.public import CARD, is_local

UNKNOWN_LICENCE = "other"

# What the makers' own pages say of whole names. Parts of names say nothing: distilgpt2 is not
# under GPT-2's licence, nor all-MiniLM under that of the MiniLM it was made from.
_EXACT = {
    "gpt2": "mit",
    "gpt2-medium": "mit",
    "gpt2-large": "mit",
    "gpt2-xl": "mit",
    "distilgpt2": "apache-2.0",
    "distilbert/distilgpt2": "apache-2.0",
    "t5-small": "apache-2.0",
    "t5-base": "apache-2.0",
    "t5-large": "apache-2.0",
    "bert-base-uncased": "apache-2.0",
    "bert-base-cased": "apache-2.0",
    "bert-large-uncased": "apache-2.0",
    "bert-large-cased": "apache-2.0",
    "distilbert-base-uncased": "apache-2.0",
    "distilbert/distilbert-base-uncased": "apache-2.0",
    "sentence-transformers/all-MiniLM-L6-v2": "apache-2.0",
    "sentence-transformers/all-MiniLM-L12-v2": "apache-2.0",
    "microsoft/MiniLM-L12-H384-uncased": "mit",
    "nreimers/MiniLM-L6-H384-uncased": "mit",
}
# One maker's families, each under one licence.
_FAMILIES = {
    "google/flan-t5-": "apache-2.0",
    "google-t5/t5-": "apache-2.0",
    "openai-community/gpt2": "mit",
    "google-bert/bert-": "apache-2.0",
    "meta-llama/Llama-2-": "llama2",
    "meta-llama/Meta-Llama-3-": "llama3",
    "meta-llama/Llama-3.1-": "llama3.1",
    "meta-llama/Meta-Llama-3.1-": "llama3.1",
    "meta-llama/Llama-3.2-": "llama3.2",
    "meta-llama/Llama-3.3-": "llama3.3",
}
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.S)
_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")


def base_licence(source: str) -> str:
    """
    The licence of base weights: of a hub repository by its whole name, of a local folder by the
    front matter of its own README. `other` where neither tells: a folder's name is no repository,
    and its config.json names what it was made from, not what it is.
    """
    if is_local(source):
        return _told_by(Path(source) / CARD)
    families = (licence for start, licence in _FAMILIES.items() if source.startswith(start))
    return _EXACT.get(source) or next(families, UNKNOWN_LICENCE)


def _told_by(card: Path) -> str:
    try:
        found = _FRONT_MATTER.match(card.read_text("utf-8"))
        tree: Any = yaml.safe_load(found[1]) if found else None
    except (OSError, ValueError, yaml.YAMLError):
        return UNKNOWN_LICENCE
    told = str(tree.get("license")) if isinstance(tree, dict) else ""
    known = _NAME.fullmatch(told) and told not in ("unknown", "none")
    return told if known else UNKNOWN_LICENCE
