"""A task from outside of mlcli: where a point lies, two numbers for each row of features.

`tests/test_new_task.py` installs it as another package would be and types every command on it.
"""

from mlcli.experiment import TaskEntry

ENTRY = TaskEntry("tests.points.config:Points", "tests.points.build", "tests.points.start")
