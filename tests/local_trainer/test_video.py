import struct
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from driven import drive, oval

from local_trainer.episodes import Episode
from local_trainer.video import FRAME_SIZE_PX, LAST_FRAME_COUNT, frames, write_video
from sim.track import Track


def episode_with_pictures(track: Track, channels: int = 1, count: int = 40) -> Episode:
    """Return the first steps of a lap; the pictures get brighter from step to step."""
    episode = drive(track)
    shade = np.linspace(0, 255, count).astype(np.uint8)
    pictures = np.broadcast_to(shade[:, None, None, None], (count, 120, 160, channels))
    return replace(
        episode,
        steps=episode.steps[:count],
        actions=episode.actions[:count],
        rewards=episode.rewards[:count],
        wall_clock=episode.wall_clock[:count],
        observations=pictures,
        final_observation=np.full((120, 160, channels), 128, np.uint8),
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_a_video_plays_every_step_in_real_time(tmp_path: Path, channels: int) -> None:
    track = oval()
    path = tmp_path / "lap.mp4"
    write_video(path, episode_with_pictures(track, channels), track)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate) == 15.0
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(decoded) == 40 + LAST_FRAME_COUNT
    assert decoded[0].shape == (FRAME_SIZE_PX[1], FRAME_SIZE_PX[0], 3)
    camera = [picture[10:350, 10:470].mean() for picture in decoded]
    assert camera[0] < 10 and camera[39] > 245  # the pictures of the first and last step
    assert camera[-1] == pytest.approx(128, abs=6)
    assert sorted(camera[:40]) == camera[:40]


def test_a_video_can_begin_to_play_before_it_is_loaded(tmp_path: Path) -> None:
    track = oval()
    path = tmp_path / "lap.mp4"
    write_video(path, episode_with_pictures(track, count=3), track)
    data = path.read_bytes()
    boxes, place = [], 0
    while place < len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        boxes.append(kind)
        place += size
    assert boxes.index(b"moov") < boxes.index(b"mdat")


def test_the_size_of_a_picture_is_even() -> None:
    assert all(length % 2 == 0 for length in FRAME_SIZE_PX)


def test_the_car_moves_and_leaves_a_trail() -> None:
    track = oval()
    pictures = [frame.copy() for frame in frames(episode_with_pictures(track), track)]
    top_views = [picture[60:420, 480:].astype(int) for picture in pictures]
    is_red = [(v[..., 0] > 200) & (v[..., 1] < 100) & (v[..., 2] < 100) for v in top_views]
    column = [float(np.nonzero(red)[1].mean()) for red in is_red]
    # The oval starts along +x, which is to the right.
    assert column[30] > column[10] + 20
    changed = np.abs(top_views[35] - top_views[0]).sum(axis=2) > 60
    assert changed[:, int(column[10]) : int(column[10]) + 3].any()


def test_an_episode_without_pictures_is_refused(tmp_path: Path) -> None:
    track = oval()
    with pytest.raises(ValueError, match="needs an episode with observations"):
        write_video(tmp_path / "lap.mp4", drive(track), track)
    assert list(tmp_path.iterdir()) == []
