"""Measurements of a network in training, as functions of tensors; imported by path, because they need torch.

They know no host, slot or stage: whoever calls says which tensors belong together.
"""
