"""Claims on job folders."""

from paredown.framework.experiments.sweep.claims import claim, is_claimed
from paredown.framework.experiments.sweep.job_status import JobStatus, write_status


def test_a_claim_is_given_back_when_its_process_is_gone(tmp_path):
    write_status(tmp_path, JobStatus("running"))
    assert not is_claimed(tmp_path)
    with claim(tmp_path) as first:
        assert first
        assert is_claimed(tmp_path)
        with claim(tmp_path) as second:
            assert not second
    assert not is_claimed(tmp_path)
