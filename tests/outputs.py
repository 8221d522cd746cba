"""Networks of logits alone as the loop has them."""

from torch import Tensor, nn

from model.backbone import Output


class Outputs(nn.Module):
    """Gives an `Output` whose logits are those of `net`; has no other outputs worth the name."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, clips: Tensor) -> Output:
        return Output(self.net(clips), clips, {})
