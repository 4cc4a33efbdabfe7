"""Signs of life: of one thread, as long as somebody listens, and without any effect on what is computed."""

from __future__ import annotations

import threading

from cudaspeed.kernels.heartbeat import beat, current_listener, heard_by


def test_a_listener_hears_its_own_thread_within_its_block_only() -> None:
    heard: list[int] = []
    beat()
    with heard_by(heard.append):
        beat()
        beat(0)
        with heard_by(None):
            assert current_listener() is None
            beat(5)
        other = threading.Thread(target=beat, args=(7,))
        other.start()
        other.join()
        assert current_listener() == heard.append
    beat(3)
    assert heard == [1, 0]
    assert current_listener() is None


def test_what_a_listener_raises_comes_out_and_leaves_nobody_listening() -> None:
    def stop(steps: int) -> None:
        raise InterruptedError

    try:
        with heard_by(stop):
            beat()
    except InterruptedError:
        pass
    else:
        raise AssertionError("nothing came out")
    assert current_listener() is None
