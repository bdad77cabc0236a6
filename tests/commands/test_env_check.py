"""`mlcli env-check` on the machine at hand."""

import json
import subprocess
import sys


def test_it_ends_in_a_verdict_and_a_command(mlcli):
    typed = mlcli("env-check")
    assert typed.code in (0, 1), typed.out
    lines = typed.out.splitlines()
    assert lines[0] == "GPU -> driver -> CUDA -> PyTorch"
    links = [line.split()[0] for line in lines[1 : lines.index("")]]
    assert list(dict.fromkeys(links)) == [
        "GPU",
        "driver",
        "Python",
        "CUDA",
        "PyTorch",
        "vision",
        "kernels",
    ]
    assert "torch " in typed.out[typed.out.index("installed") : typed.out.index("findings")]
    assert lines[-1].startswith("(driver facts: ")
    assert lines[-1].endswith(f"exit {typed.code}")
    assert lines[-3].startswith("  ")


def test_json_says_the_same_and_torch_stays_out_of_this_process(tmp_path):
    program = (
        "import sys, mlcli.cli\n"
        "code = 0\n"
        "try: mlcli.cli.main()\n"
        "except SystemExit as stopped: code = stopped.code or 0\n"
        "loaded = {'torch', 'torchvision', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else code)"
    )
    arguments = [sys.executable, "-c", program, "env-check", "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    report = json.loads(done.stdout)
    assert done.returncode == report["exit_code"], done.stderr
    assert report["exit_code"] in (0, 1)
    assert report["facts"]["torch"]["state"] == "ok"
    assert {kernel["outcome"] for kernel in report["facts"]["torch"]["kernels"]} <= {"ok", "skipped"}
    assert report["facts"]["python"]["prefix"] == sys.prefix
    assert report["verdict"]
    assert report["command"]


def test_help_names_an_example(mlcli):
    assert "Example: mlcli env-check" in mlcli("env-check", "--help").out
    assert "mlcli env-check" in mlcli().out
