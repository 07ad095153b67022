"""The network: strides and rates, backbones, heads, cost, weights, checkpoints."""
