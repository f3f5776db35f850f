"""Inputs that hang together, and what a layer's change costs on them."""

import torch


def correlated(samples, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(n, n, generator=generator, dtype=torch.float64) / n**0.5
    scales = torch.rand(n, generator=generator, dtype=torch.float64) * 2 + 0.1
    return torch.randn(samples, n, generator=generator, dtype=torch.float64) @ (mixing + torch.eye(n)) * scales


def moments_of(x):
    return x.T @ x / len(x)


def cost(new, weight, moments):
    return torch.einsum("oi,ij,oj->", new - weight, moments, new - weight).item()


def damped(moments, damping=0.01):
    return moments + damping * moments.diagonal().mean() * torch.eye(len(moments))
