"""What a network and a head make of laid-out examples, as pure functions: no loss, no loop and no file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from groundup.data.labelled import Labelled
from groundup.model.encoder import Encoder
from groundup.model.encoder_decoder import EncoderDecoder
from groundup.model.task_head import TaskHead


def answered(net: nn.Module, head: TaskHead, batch: Labelled) -> Tensor:
    """What the head says: (B, outputs) fp32 at least, for a span (B, T, 2).

    An encoder's first position is read (Devlin et al. 2019), a decoder's last one (Radford et al. 2018). The decoder
    of an encoder-decoder reads what its encoder has read, and its last position is taken (Lewis et al. 2020, BART,
    section 3). A prefix LM sees the whole example.
    """
    tokens, documents = batch.tokens_BT, batch.documents_BT
    reader: Any = net
    if isinstance(net, EncoderDecoder):
        x_BTD = reader.stream(tokens, documents, None, tokens, documents)
    elif isinstance(net, Encoder):
        kinds = reader.config.segments
        segments = batch.segments_BT.clamp(max=kinds - 1) if kinds else None
        x_BTD = reader.stream(tokens, documents, None, segments)
    else:
        x_BTD = reader.stream(tokens, documents, None, documents == 0 if reader.config.mask == "prefix" else None)
    read_B = torch.zeros_like(batch.last_B) if head.config.first else batch.last_B
    found: Tensor = head(x_BTD, read_B)
    return found


def best_spans(logits_BT2: Tensor, text_B2: Tensor, most: int) -> Tensor:
    """The likeliest span of each text, or none (Devlin et al. 2019, sections 4.2 and 4.3).

    Args:
        logits_BT2: of start and end at each position.
        text_B2: first position of the text and the one behind it.
        most: positions of an answer.

    Returns:
        First and last position, (B, 2) int64; 0 and 0 where no span is likelier than position 0, which is none.
    """
    T = logits_BT2.shape[1]
    places = torch.arange(T, device=logits_BT2.device)
    inside_BT = (places >= text_B2[:, :1]) & (places < text_B2[:, 1:])
    start_BT, end_BT = logits_BT2.masked_fill(~inside_BT[..., None], -torch.inf).unbind(-1)
    far = places - places[:, None]
    scores_BTT = (start_BT[:, :, None] + end_BT[:, None]).masked_fill((far < 0) | (far >= most), -torch.inf)
    best_B, at_B = scores_BTT.flatten(1).max(dim=1)
    spans_B2 = torch.stack((at_B // T, at_B % T), dim=1)
    return spans_B2.where((best_B > logits_BT2[:, 0].sum(dim=-1))[:, None], 0)
