# SPDX-License-Identifier: MIT
"""Synchronous code in asyncio: neither ask() nor spell(), which calls it, is a coroutine."""

import asyncio

from kfiber.aio import await_, to_fiber


def ask(port, word):
    reader, writer = await_(asyncio.open_connection("127.0.0.1", port))
    writer.write(f"{word}\n".encode())
    answer = await_(reader.readline())
    writer.close()
    return answer.decode().strip()


def spell(port, words):
    return " ".join(ask(port, word) for word in words)


async def answer(reader, writer):
    writer.write((await reader.readline()).upper())
    writer.close()


async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    texts = await asyncio.gather(
        to_fiber(spell, port, ["all", "at", "once"]),
        to_fiber(spell, port, ["without", "a", "colour"]),
    )
    print(*texts, sep="\n")
    server.close()
    await server.wait_closed()


asyncio.run(main())
