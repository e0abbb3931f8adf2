"""A transformer with a frozen encoder grows an adapter under the Trainer of Hugging Face.

The model is a tiny BERT with random weights and the texts are random tokens; nothing is downloaded.
A callback makes the calls.
Run: python examples/hf_trainer.py   (pip install transformers accelerate)
"""

import torchvision_operators  # noqa: F401  where torchvision fails to import; see there

# isort: split
import tempfile

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import esper

torch.manual_seed(0)
tokens = torch.randint(0, 8, (1280, 6))
votes = torch.randn(8, 6)  # what a token says depends on where it stands
labels = (votes[tokens, torch.arange(6)].sum(dim=1) > 0).long()
rows = [{"input_ids": ids, "labels": label} for ids, label in zip(tokens[:1024], labels[:1024], strict=True)]
held_out = {"input_ids": tokens[1024:], "labels": labels[1024:]}
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
config = BertConfig(vocab_size=8, num_labels=2, initializer_range=0.4, **sizes)


@esper.blueprint("adapter", needs="sequence")
def build_adapter(slot) -> nn.Module:  # noqa: ANN001
    """A seed of one's own: two layers on each token; the last starts at zero, as every seed must."""
    last = nn.Linear(32, slot.num_channels)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(slot.num_channels, 32), nn.GELU(), last)


model = BertForSequenceClassification(config)
model.bert.encoder.requires_grad_(False)  # the head learns, and what grows
grown = esper.grow(model, sample=held_out, at=["bert.encoder.layer.*"], blueprints=[build_adapter])
optimizer = torch.optim.AdamW(grown.parameters(), lr=5e-3)
controller = esper.Controller(grown, optimizer, epochs=40)


def evaluate(network: nn.Module) -> Tensor:
    """Return one loss per held-out row."""
    with torch.no_grad():
        return F.cross_entropy(network.eval()(**held_out).logits, held_out["labels"], reduction="none")


class Grow(TrainerCallback):
    """Asks before each epoch whether to grow, and measures after it."""

    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        """Follow the scheduler that the trainer has just made."""
        controller.follow(kwargs["lr_scheduler"])

    def on_epoch_begin(self, *args: object, **kwargs: object) -> None:
        """Let the model grow."""
        for event in controller.act():
            print(event)

    def on_epoch_end(self, *args: object, **kwargs: object) -> None:
        """Measure what has grown."""
        print(*controller.observe(evaluate=evaluate), sep="\n")


# The trainer would drop columns by the names of the arguments, which the grown model hands on unseen.
arguments = TrainingArguments(
    tempfile.mkdtemp(), num_train_epochs=40, per_device_train_batch_size=32, remove_unused_columns=False,
    use_cpu=True, save_strategy="no", report_to=[], disable_tqdm=True,
)  # fmt: skip
Trainer(grown, arguments, train_dataset=rows, optimizers=(optimizer, None), callbacks=[Grow()]).train()
controller.finish()
print(grown.summary())

plain = grown.export()  # a BertForSequenceClassification again
difference = (plain(**held_out).logits - grown.eval()(**held_out).logits).abs().max().item()
assert difference < 1e-5, difference
print(f"exported, equal to {difference:.1e}; held-out loss {evaluate(plain).mean():.3f}")
