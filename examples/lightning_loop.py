"""A network grows under Lightning's Trainer: two hooks make the calls, the loop stays Lightning's.

Optimisation is automatic. Lightning saves weights and could not rebuild a network that has grown, so saving
is the controller's: `controller.save(folder)` and `controller.load(folder)`.
Run: python examples/lightning_loop.py   (pip install lightning)
"""

import torchvision_operators  # noqa: F401  where torchvision fails to import; see there

# isort: split
import lightning
import torch
from digits import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import esper

torch.manual_seed(0)
train, validation = load_digits(shape=(64,))
images, classes = validation.tensors


def evaluate(network: nn.Module) -> Tensor:
    """Return one loss per validation image."""
    network.eval()
    with torch.no_grad():
        return F.cross_entropy(network(images), classes, reduction="none")


class Module(lightning.LightningModule):
    """Digits, by four hidden units: too few on purpose, there must be something to grow for."""

    def __init__(self) -> None:
        super().__init__()
        model = nn.Sequential(nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))
        self.network = esper.grow(model, sample=images[:2], at=["0"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make the optimiser, and the controller that follows it."""
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=5e-3)
        self.controller = esper.Controller(self.network, optimizer, epochs=40)
        return optimizer

    def on_train_epoch_start(self) -> None:
        """Let the network grow."""
        for event in self.controller.act():
            print(event)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        """Return the loss, as ever."""
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def on_train_epoch_end(self) -> None:
        """Measure what has grown."""
        print(*self.controller.observe(evaluate=evaluate), sep="\n")


module = Module()
silent = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
trainer = lightning.Trainer(max_epochs=40, accelerator="cpu", **dict.fromkeys(silent, False))
trainer.fit(module, DataLoader(train, batch_size=32, shuffle=True))
module.controller.finish()
print(module.network.summary())

plain = module.network.export()
difference = (plain(images) - module.network.eval()(images)).abs().max().item()
assert difference < 1e-5, difference
print(f"exported, equal to {difference:.1e}; validation loss {evaluate(plain).mean():.3f}")
