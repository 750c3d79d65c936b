"""
Tiny random students: shapes from the YAML, a byte-level BPE trained on the training texts.

They need no download, go through the same loading code as real models, and prove nothing about
quality. The folder is written once per training and read again when the training resumes.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
)

from common.config.student import TINY_POSITIONS, TinyShape
from common.fingerprint import digest
from common.records import TrainingPair
from common.task import TaskDefinition
from student.tokens import RESERVED

MADE_OF = "made_of.txt"  # digest of what the folder was made of
PAD, END, UNKNOWN, START = "<pad>", "</s>", "<unk>", "<s>"


def prepare_tiny(folder: Path, shape: TinyShape, texts: Sequence[str], seed: int) -> Path:
    """Write a random model and its tokenizer into `folder`, unless just these are there already."""
    made_of = digest([shape.model_dump(mode="json"), list(texts), seed])
    if (folder / MADE_OF).is_file() and (folder / MADE_OF).read_text("utf-8") == made_of:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    staging = folder.with_name(folder.name + ".writing")
    shutil.rmtree(staging, ignore_errors=True)
    tokenizer = train_tokenizer(texts, shape)
    torch.manual_seed(seed)
    model = _auto_class(shape).from_config(_config(shape, tokenizer))
    model.save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    (staging / MADE_OF).write_text(made_of, "utf-8")
    os.replace(staging, folder)
    return folder


def tiny_texts(pairs: Iterable[TrainingPair], task: TaskDefinition, prompt: str) -> list[str]:
    """Every text a tiny tokenizer shall know: the pairs', the labels, the prompt's words."""
    words = task.student_prompt(prompt)
    texts = [f"{words.predict}{words.explain}{words.before}{words.after}"]
    texts += [f" {name} {name}" for name in task.label_names]
    for pair in pairs:
        texts += [pair.text, pair.rationale or ""]
    return texts


def train_tokenizer(texts: Sequence[str], shape: TinyShape) -> PreTrainedTokenizerFast:
    """A byte-level BPE: no text is unknown to it. Same texts, same tokenizer."""
    core = Tokenizer(models.BPE(unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary,
        special_tokens=[PAD, END, UNKNOWN, START, *RESERVED[0]],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    core.post_processor = _frame(shape)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        bos_token=START,
        **({"cls_token": START, "sep_token": END} if shape.family == "bert" else {}),
    )


def _frame(shape: TinyShape) -> Any:
    template = {
        "t5": f"$A {END}",
        "bert": f"{START} $A {END}",
        "gpt2": "$A",
        "llama": f"{START} $A",
    }
    special = [(END, 1), (START, 3)]
    return processors.TemplateProcessing(single=template[shape.family], special_tokens=special)


def _auto_class(shape: TinyShape) -> Any:
    return {
        "t5": AutoModelForSeq2SeqLM,
        "bert": AutoModelForMaskedLM,
        "gpt2": AutoModelForCausalLM,
        "llama": AutoModelForCausalLM,
    }[shape.family]


def _config(shape: TinyShape, tokenizer: PreTrainedTokenizerFast) -> Any:
    size = {"vocab_size": len(tokenizer)}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3}
    hidden, layers, heads, inner = shape.hidden, shape.layers, shape.heads, shape.feed_forward
    match shape.family:
        case "t5":
            # Flan-T5's form (gated). tie_word_embeddings stays unset: see T5Config.
            return AutoConfig.for_model(
                "t5", d_model=hidden, d_kv=hidden // heads, d_ff=inner, num_layers=layers,
                num_heads=heads, feed_forward_proj="gated-gelu", decoder_start_token_id=0,
                **size, pad_token_id=0, eos_token_id=1,
            )  # fmt: skip
        case "bert":
            return AutoConfig.for_model(
                "bert", hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                intermediate_size=inner, max_position_embeddings=TINY_POSITIONS, **size, **ids,
            )  # fmt: skip
        case "gpt2":
            return AutoConfig.for_model(
                "gpt2", n_embd=hidden, n_layer=layers, n_head=heads, n_inner=inner,
                n_positions=TINY_POSITIONS, initializer_range=_spread(hidden), **size, **ids,
            )  # fmt: skip
        case "llama":
            return AutoConfig.for_model(
                "llama", hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                intermediate_size=inner, max_position_embeddings=TINY_POSITIONS,
                initializer_range=_spread(hidden), **size, **ids,
            )  # fmt: skip


def _spread(hidden: int) -> float:
    """
    1/sqrt(width). The libraries' 0.02 is that of width 2,500: at width 64 every logit stays near
    zero, and adapters beside a frozen head of that size cannot learn a label at all.
    """
    return float(hidden**-0.5)
