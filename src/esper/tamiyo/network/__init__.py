"""The learned policy's network: encoder, recurrent core, heads of the joint action, critic.

It sees named tensors and answers with distributions; it knows no host, no reward and no learner.
"""

from esper.tamiyo.network.actor import PolicyView, RecurrentActorCritic
from esper.tamiyo.network.build import build_network
from esper.tamiyo.network.config import NetworkConfig

__all__ = ["NetworkConfig", "PolicyView", "RecurrentActorCritic", "build_network"]
