"""A sample of a corpus that fits into memory, for a tokenizer to learn from."""

import hashlib
import heapq


class TextSample:
    """At most so many bytes of text, chosen by hashes of the documents: fair, and the same in whatever order they come.

    Of all documents that were added, those with the smallest hashes.
    """

    def __init__(self, most_bytes: int):
        self.most_bytes = most_bytes
        self.read_bytes = 0  # of everything that was added
        self._bytes = self._count = 0
        self._held: list[tuple[int, int, str]] = []  # a heap with the greatest hash first: -hash, number, text

    def add(self, text: str) -> None:
        content = text.encode()
        place = int.from_bytes(hashlib.sha256(content).digest()[6:14])  # other bytes than those which hold out
        heapq.heappush(self._held, (-place, self._count, text))
        self._count += 1
        self.read_bytes += len(content)
        self._bytes += len(content)
        while self._bytes > self.most_bytes:
            self._bytes -= len(heapq.heappop(self._held)[2].encode())

    def texts(self) -> list[str]:
        """The sample, in the order in which it came."""
        return [text for _, _, text in sorted(self._held, key=lambda each: each[1])]
