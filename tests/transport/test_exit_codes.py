from transport.exit_codes import ExitCode


def test_the_codes_are_those_that_units_and_scripts_are_written_for() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "FAILED": 1,
        "USAGE": 2,
        "UNREACHABLE": 69,
        "TRY_AGAIN": 75,
        "REFUSED": 77,
        "CONFIG": 78,
        "INTERRUPTED": 130,
    }
