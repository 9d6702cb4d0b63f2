"""The tokenizer of a fresh model: byte-level BPE trained on the text of its data. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from grape.runtime.artifacts import Data, Demos

END, PAD = "<|end|>", "<|pad|>"


def train_core(texts: Iterable[str], vocab: int) -> Tokenizer:
    """Byte-level BPE with an end and a padding token; without texts, bytes only."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocab, len(alphabet) + 2),
        special_tokens=[END, PAD],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return core


def texts_of(data: object) -> Iterator[str]:
    """What a fresh tokenizer is trained on: each item's parts, one text an item."""
    if isinstance(data, Demos):
        for row in data.rows:
            yield row.prompt + row.completion
    elif isinstance(data, Data):
        for item in data.items:
            parts = [item.prompt, item.completion, item.chosen, item.rejected, item.answer]
            yield "\n".join(part for part in parts if part)
            for turn in item.messages or []:
                yield str(turn["content"])
