"""The network: strides and rates, backbones, heads, weights, checkpoints, export."""
