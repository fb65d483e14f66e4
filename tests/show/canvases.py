"""A short run to show: what it was given, what it wrote, and a tokenizer for it."""

import torch

from llada.data.tokenizer import train_tokenizer
from llada.sampling.trace import Kind, Trace
from llada.show.frames import Frame

TOKENIZER = train_tokenizer(["one two three <b>&amp; 漢"], 262)
MASK = int(TOKENIZER.mask_token_id)


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def trace(answer: str = "<b>", *, alternatives: bool = True) -> Trace:
    """`ab` is given; the answer is revealed from the right, its last token is masked once and revealed again."""
    given, tokens = ids("ab"), ids(answer)
    n = len(tokens)
    events = [(i, 1 + n - i, tokens[n - 1 - i], Kind.REVEALED, 0.5 + 0.4 * i / n) for i in range(n)]
    events += [(n, 1 + n, MASK, Kind.REMASKED, 1.0), (n + 1, 1 + n, tokens[-1], Kind.REVEALED, 0.2)]
    columns = list(zip(*events, strict=True))
    width = 2 if alternatives else 0
    others = torch.tensor([[token, 7] if kind == Kind.REVEALED else [MASK] * 2 for _, _, token, kind, _ in events])
    p = torch.tensor([[q, (1 - q) / 2] if kind == Kind.REVEALED else [0.0] * 2 for *_, kind, q in events])
    return Trace(
        mask_token_id=MASK,
        canvas=torch.tensor([given + [MASK] * n]),
        index=torch.arange(n + 2),
        blocks=torch.tensor([[2, 2 + n]] * (n + 2)),
        active=torch.ones(n + 2, 1, dtype=torch.bool),
        step=torch.tensor(columns[0]),
        row=torch.zeros(n + 2, dtype=torch.long),
        position=torch.tensor(columns[1]),
        token=torch.tensor(columns[2]),
        kind=torch.tensor([int(kind) for kind in columns[3]]),
        probability=torch.tensor(columns[4], dtype=torch.float64),
        alternatives=others[:, :width],
        alternative_probability=p[:, :width].double(),
    )


def looks(monkeypatch) -> list[Frame]:
    """Frames that were asked which of their tokens are hidden, from now on, each as often as it was."""
    asked, hidden = [], Frame.hidden.fget
    assert hidden is not None

    def counted(frame: Frame) -> list[bool]:
        asked.append(frame)
        return hidden(frame)

    monkeypatch.setattr(Frame, "hidden", property(counted))
    return asked
