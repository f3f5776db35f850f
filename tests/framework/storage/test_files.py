import pytest

from paredown.framework.storage.files import whole_file, write_text


def test_a_file_is_replaced_at_once_and_is_as_any_other(tmp_path):
    path = tmp_path / "new" / "status.json"
    write_text(path, "old")
    (tmp_path / "other").write_text("")
    with whole_file(path) as file:
        file.write(b"n\xc3\xa9w")
        assert path.read_text() == "old"
    assert path.read_text(encoding="utf-8") == "néw"
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert [one.name for one in path.parent.iterdir()] == ["status.json"]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "status.json"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
