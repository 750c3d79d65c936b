"""Whole weights to CTranslate2: T5, GPT-2, Llama and the other families its converter knows."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from common.errors import MissingDependency, StudentError

FOLDER = "ctranslate2"


def write_ctranslate2(whole: Path, target: Path, numbers: str) -> None:
    """
    Convert the weights in `whole` into `target`/ctranslate2; `numbers`: int8, float16, float32.

    Raises MissingDependency without ctranslate2, StudentError for families it does not know.
    """
    try:
        from ctranslate2.converters import TransformersConverter
    except ImportError as error:
        raise MissingDependency(
            "export --format ctranslate2 needs ctranslate2: pip install 'finstill[export]'."
        ) from error

    class Converter(TransformersConverter):  # type: ignore[misc]
        """Undoes what transformers 5 says of every T5: that its output matrix is tied."""

        def load_model(self, *arguments: Any, **options: Any) -> Any:
            model = super().load_model(*arguments, **options)
            tied = getattr(model.config, "scale_decoder_outputs", None)
            if tied is not None:
                model.config.tie_word_embeddings = tied
            return model

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            Converter(str(whole)).convert(str(target / FOLDER), quantization=numbers)
    except (ValueError, NotImplementedError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise StudentError(
            f"export --format ctranslate2: its converter does not take this student ({reason}); "
            "use --format merged, or onnx for a seq2seq student."
        ) from error
    _take_start_from_prefix(target / FOLDER / "config.json")


def _take_start_from_prefix(path: Path) -> None:
    """Every decoding names its own start token: the decoder signal has two of them."""
    tree = json.loads(path.read_text("utf-8"))
    if "decoder_start_token" in tree:
        path.write_text(json.dumps({**tree, "decoder_start_token": None}, indent=2), "utf-8")
