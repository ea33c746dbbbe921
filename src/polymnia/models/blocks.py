"""Pre-norm transformer blocks and a patch-free encoder, shared by the tiny towers."""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Self-attention and an MLP, each behind a LayerNorm and a residual."""

    def __init__(self, width: int, heads: int, expansion: int = 2):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))

    def forward(self, x: Float[Tensor, "b t w"], mask: Bool[Tensor, "b t"] | None = None) -> Float[Tensor, "b t w"]:
        b, t, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None, :])
        x = x + self.out(attended.transpose(1, 2).reshape(b, t, w))
        return x + self.mlp(self.norm2(x))
