"""Folders as they are pushed: what they hold, and what belongs together."""

from pathlib import Path

import pytest

from handful.bundle.recordings import looks_like_sound
from handful.errors import InvalidArgument
from handful.folders import doubts, find, is_sound, modality_of, survey
from handful.v1.bundle_pb2 import MODALITY_IMAGE, MODALITY_SOUND

JPEG, WEBP, WAV, MP3 = b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBPVP8 ", b"RIFF\0\0\0\0WAVEfmt ", b"\xff\xfb\x90\x64"


def lay(folder: Path, **files: bytes) -> Path:
    """Files of a class `one`, by their names without suffix."""
    (folder / "one").mkdir()
    for name, data in files.items():
        (folder / "one" / f"{name}.bin").write_bytes(data)
    return folder


def test_sounds_are_told_from_pictures(tmp_path: Path) -> None:
    """By what files begin with, whatever they are called; text beside them changes nothing."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert modality_of(find(lay(tmp_path / "a", first=WAV, second=MP3, third=b"fLaC", note=b"hello"))) == MODALITY_SOUND
    assert modality_of(find(lay(tmp_path / "b", first=JPEG, second=WEBP, empty=b""))) == MODALITY_IMAGE


def test_both_at_once_are_refused(tmp_path: Path) -> None:
    """A folder of pictures and sounds is no dataset; how many of each is said."""
    with pytest.raises(InvalidArgument, match="2 pictures and 1 sounds"):
        modality_of(find(lay(tmp_path, first=JPEG, second=WEBP, third=WAV)))


@pytest.mark.parametrize(("many", "stray", "modality"), [(JPEG, WAV, MODALITY_IMAGE), (MP3, JPEG, MODALITY_SOUND)])
def test_a_stray_file_does_not_refuse_a_folder(tmp_path: Path, many: bytes, stray: bytes, modality: int) -> None:
    """One file of the other kind among many leaves the folder what it is."""
    lay(tmp_path, stray=stray, **{f"good{number}": many for number in range(4)})
    assert modality_of(find(tmp_path)) == modality


def test_a_text_of_windows_is_no_sound(tmp_path: Path) -> None:
    """UTF-16 begins with FF FE, as a frame of MPEG might."""
    desktop = "[.ShellClassInfo]".encode("utf-16")
    assert desktop.startswith(b"\xff\xfe")
    assert modality_of(find(lay(tmp_path, desktop=desktop, first=JPEG))) == MODALITY_IMAGE


def test_what_is_hidden_or_loose_is_counted_and_left_out(tmp_path: Path) -> None:
    """At every depth; and a link to a folder, which may lead in a circle, is not followed below the class folders."""
    lay(tmp_path, first=JPEG, **{".second": JPEG})
    for folder in (".git", "one/.cache", "one/deep/.thumbs", "one/deep"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "x.jpg").write_bytes(JPEG)
    (tmp_path / "readme.txt").write_text("loose")
    (tmp_path / "one" / "circle").symlink_to(tmp_path)
    found = survey(tmp_path)
    assert [file.path.relative_to(tmp_path).as_posix() for file in found.files] == ["one/deep/x.jpg", "one/first.bin"]
    assert (found.num_hidden, found.num_loose, found.labels) == (4, 1, ["one"])


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["a/1.jpg", "b/2.jpg"], None),
        (["train/a/1.jpg", "val/a/2.jpg", "train/a/ann/1.jpg"], None),
        (["a/ann/1.jpg", "b/bob/1.jpg"], None),
        (["a/1.jpg", "b/1.txt"], None),
        (["a/1.jpg", "a/1.txt", "a/2.txt"], "2 of 3 files are neither pictures nor sounds"),
        (["flowers/rose/1.jpg", "flowers/tulip/2.jpg"], "such as flowers/rose/1.jpg, whose class would be flowers"),
        (["a/b/c/1.jpg", "d/e/f/1.jpg"], "folders within folders"),
        (["train/a/1.jpg", "val/a/2.jpg", "test/3.jpg"], "Beside train and val stands test"),
        ([f"{number}/1.jpg" for number in range(201)], "there are 201"),
    ],
)
def test_what_does_not_look_like_class_folders_is_doubted(tmp_path: Path, files: list[str], says: str | None) -> None:
    """And what does is not."""
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(JPEG if name.endswith(".jpg") else b"text")
    told = doubts(survey(tmp_path))
    assert (told == []) if says is None else (says in " ".join(told))


def test_files_of_neither_kind_alone_are_refused(tmp_path: Path) -> None:
    """What could be taken instead is said."""
    with pytest.raises(InvalidArgument, match="JPEG, PNG or WebP; WAV, FLAC, OGG or MP3"):
        modality_of(find(lay(tmp_path, voice=b"\0\0\0\x20ftypM4A ")))


def test_caller_and_services_take_the_same_files_for_sounds() -> None:
    """By every beginning that MPEG's frames could have, and every other mark there is."""
    beginnings = [bytes([255, second, third]) + bytes(9) for second in range(256) for third in range(256)]
    beginnings += [
        mark + bytes(12) for mark in (JPEG, WEBP, WAV, b"RIFX\0\0\0\0WAVE", b"fLaC", b"OggS", b"ID3", b"\xfe\xff")
    ]
    assert [is_sound(one) for one in beginnings] == [looks_like_sound(one) for one in beginnings]
    assert sum(map(is_sound, beginnings)) == 17 * 240 + 5


def test_groups_are_taken_from_names(tmp_path: Path) -> None:
    """What the parentheses match is the group."""
    files = find(lay(tmp_path, **{"1_ann_7": WAV, "1_bob_2": WAV, "2_ann_1": WAV}), r"^\d+_(\w+)_")
    assert [file.group for file in files] == ["ann", "bob", "ann"]


def test_groups_are_taken_from_a_list(tmp_path: Path) -> None:
    """By the path in the folder, in any order, with whatever else the list has; a spreadsheet's mark is no name."""
    lay(tmp_path, a=WAV, b=WAV)
    listed = tmp_path / "speakers.csv"
    rows = ("group,file,length", "ann,one/b.bin,1", " bob ,one/a.bin,2", "eve,one/gone.bin,3")
    listed.write_text("\n".join(rows), encoding="utf-8-sig")
    assert [file.group for file in find(tmp_path, str(listed))] == ["bob", "ann"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file,group\none/a.bin,\n", "has no group for 1 files, such as one/a.bin"),
        ("file,group\na.bin,ann\n", "such as one/a.bin"),
        ("file;group\none/a.bin;ann\n", "must begin with the line file,group"),
        ("", "must begin with the line file,group"),
        (None, "there is no file "),
        ("file,group\none/a.bin,\udce9\n", "cannot be read as a CSV file in UTF-8"),
    ],
    ids=["empty", "no path", "semicolons", "nothing", "missing", "other letters"],
)
def test_a_list_that_groups_nothing_is_refused(tmp_path: Path, text: str | None, says: str) -> None:
    """The field is named, and the first file that has no group."""
    lay(tmp_path, a=WAV)
    listed = tmp_path / "speakers.csv"
    if text is not None:
        listed.write_text(text, errors="surrogateescape")
    with pytest.raises(InvalidArgument) as caught:
        find(tmp_path, str(listed))
    assert [(field, says in what) for field, what in caught.value.violations] == [("groups", True)]


@pytest.mark.parametrize(
    ("pattern", "says"),
    [("(", "is no regular expression"), ("_a", "one pair of parentheses"), (r"_(\d)_", "1_ann_7.bin")],
)
def test_a_pattern_that_groups_nothing_is_refused(tmp_path: Path, pattern: str, says: str) -> None:
    """The field is named, and the first name that it does not match."""
    lay(tmp_path, **{"1_ann_7": WAV})
    with pytest.raises(InvalidArgument) as caught:
        find(tmp_path, pattern)
    assert [(field, says in what) for field, what in caught.value.violations] == [("groups", True)]
