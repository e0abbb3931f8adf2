"""A frozen transformer grows adapters under the Trainer of Hugging Face: a callback makes the calls.

The model is a tiny BERT with random weights and the texts are random tokens; nothing is downloaded.
Run: python examples/hf_trainer.py
"""

import tempfile

import torch
import torchvision_operators  # noqa: F401  where torchvision fails to import; see there
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

import esper

torch.manual_seed(0)
tokens = torch.randint(0, 8, (1280, 6))
votes = torch.randn(8, 6)  # what a token says depends on where it stands
labels = (votes[tokens, torch.arange(6)].sum(dim=1) > 0).long()
rows = [{"input_ids": ids, "labels": label} for ids, label in zip(tokens, labels, strict=True)]
held_out = {"input_ids": tokens[1024:], "labels": labels[1024:]}

config = BertConfig(vocab_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
                    max_position_embeddings=8, num_labels=2, initializer_range=0.4, hidden_dropout_prob=0.0,
                    attention_probs_dropout_prob=0.0)  # fmt: skip


@esper.blueprint("token_mlp", needs="sequence")
def token_mlp(spec: object) -> nn.Module:
    """A seed for sequences [B, T, C]: two layers on each token, the last of which starts at zero."""
    last = nn.Linear(32, spec.num_channels)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(spec.num_channels, 32), nn.GELU(), last)


model = BertForSequenceClassification(config)
model.bert.encoder.requires_grad_(False)
model.bert.embeddings.requires_grad_(False)  # only the head learns, and what grows
grown = esper.grow(model, sample=held_out, at=["bert.encoder.layer.*"],
                   blueprints=[token_mlp])  # fmt: skip
optimizer = torch.optim.AdamW(grown.parameters(), lr=5e-3)
controller = esper.Controller(grown, optimizer, epochs=40)


def evaluate(network: nn.Module) -> Tensor:
    """Return one loss per held-out row."""
    network.eval()
    with torch.no_grad():
        return F.cross_entropy(network(input_ids=held_out["input_ids"]).logits, held_out["labels"], reduction="none")


class Grow(TrainerCallback):
    """Asks before each epoch whether to grow, and measures after it."""

    def on_train_begin(self, *args: object, lr_scheduler: LRScheduler, **kwargs: object) -> None:
        """Tell of the scheduler that the trainer has just made."""
        controller.follow(lr_scheduler)

    def on_epoch_begin(self, *args: object, **kwargs: object) -> None:
        """Let the model grow."""
        for event in controller.act():
            print(event)

    def on_epoch_end(self, *args: object, **kwargs: object) -> None:
        """Measure what has grown."""
        for event in controller.observe(evaluate=evaluate):
            print(event)


with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(output_dir=folder, num_train_epochs=40, per_device_train_batch_size=32, use_cpu=True,
                                  save_strategy="no", remove_unused_columns=False, report_to=[], disable_tqdm=True, logging_strategy="no",
                                  lr_scheduler_type="constant", label_names=["labels"])  # fmt: skip
    trainer = Trainer(grown, arguments, train_dataset=rows[:1024], optimizers=(optimizer, None), callbacks=[Grow()])
    trainer.train()
controller.finish()
print(grown.summary())

plain = grown.export()  # a BertForSequenceClassification again
difference = (plain(**held_out).logits - grown.eval()(**held_out).logits).abs().max().item()
assert isinstance(plain, BertForSequenceClassification)
assert difference < 1e-5, difference
print(f"exported, equal to {difference:.1e}; held-out loss {evaluate(plain).mean():.3f}")
