"""The status of a job."""

from paredown.framework.experiments.sweep.job_status import JobStatus, read_state, read_status, write_status


def test_a_status_reads_back(tmp_path):
    status = JobStatus("failed", ("a=1",), 1.5, 2.5, "doing", "why", "task")
    write_status(tmp_path, status)
    assert read_status(tmp_path) == status
    assert read_status(tmp_path / "none") is None
    assert (read_state(tmp_path), read_state(tmp_path / "none")) == ("failed", "")
