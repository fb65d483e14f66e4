"""Many requests at once from a process of its own: python load.py ADDRESS COUNT AT_ONCE < bodies > answers.

A body that is refused is answered by the status of its error.
"""

import asyncio
import json
import sys

from openai import APIStatusError, AsyncOpenAI


async def ask(client: AsyncOpenAI, body: dict) -> dict:
    try:
        if body.get("stream"):
            parts = [part async for part in await client.completions.create(**body)]
            return {"text": "".join(part.choices[0].text for part in parts)}
        made = await client.completions.create(**body)
        assert made.usage is not None
        return {"text": made.choices[0].text, "tokens": made.usage.completion_tokens}
    except APIStatusError as error:
        return {"status": error.status_code}


async def main(address: str, at_once: int) -> None:
    bodies = json.load(sys.stdin)
    client = AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600)
    free = asyncio.Semaphore(at_once)

    async def one(body: dict) -> dict:
        async with free:
            return await ask(client, body)

    json.dump(await asyncio.gather(*(one(body) for body in bodies)), sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
