"""`emjax dataset`: the command, its job script, its mistakes."""

from __future__ import annotations

import pytest

from emjax.cli.dataset import main, parse
from emjax.cli.errors import UsageError, guarded
from emjax.data.synthetic_sets import RECIPES
from emjax.dataset import open_dataset

RECIPE = '''
from dataclasses import dataclass

@dataclass(frozen=True)
class Noise:
    """White noise."""

    size: int = 5
    """Pixels a side."""

    def build(self):
        import jax

        return lambda key: {"image": jax.random.normal(key, (self.size, self.size))}

class NotOne:
    pass
'''


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(RECIPE)
    return tmp_path


def test_a_data_set_from_the_command_line(desk, capsys):
    line = ["mine.py:Noise", "--count", "9", "--shards", "3", "--seed", "4", "--size", "6"]
    assert main([*line, "--out", "all"]) == 0
    said = capsys.readouterr().out
    assert "data set all: 9 images in 3 shards" in said
    assert "written  3 shards" in said
    assert "complete 9 images" in said
    data = open_dataset("all")
    assert data[8]["image"].shape == (6, 6)
    assert data.manifest["config"] == {"size": 6}
    assert main([*line, "--out", "all"]) == 0
    assert "nothing was left to do" in capsys.readouterr().out
    assert main([*line, "--out", "all", "--verify"]) == 0
    assert "as they were written" in capsys.readouterr().out

    assert main([*line, "--out", "jobs", "--task", "2/2"]) == 0
    assert "other jobs write the other shards" in capsys.readouterr().out
    assert main(["mine.py:Noise", *line[1:], "--out=jobs", "--task=1/2"]) == 0
    assert open_dataset("jobs").digest() == data.digest()

    (desk / "jobs" / data.plan.file(1)).write_bytes(b"scratch")
    assert main([*line, "--out", "jobs", "--verify"]) == 1
    assert "shard-00001-of-00003.h5 is damaged" in capsys.readouterr().err


def test_the_job_script_repeats_the_command(desk):
    line = ["mine.py:Noise", "--count", "4", "--shards", "2", "--size", "3"]
    assert main([*line, "--out", "a b", "--task", "1/2"]) == 0
    script = (desk / "a b" / "submit.slurm").read_text()
    words = " ".join([f"{desk / 'mine.py'}:Noise", *line[1:]])
    assert f"srun emjax dataset {words} --out '{desk / 'a b'}' --task" in script
    assert f"#SBATCH --output='{desk / 'a b'}/job-%a.log'" in script
    assert "#SBATCH --array=1-2" in script


def test_a_job_that_names_the_recipe_in_full_goes_on(desk, monkeypatch):
    line = ["--count", "4", "--shards", "2", "--out", str(desk / "set")]
    assert main(["mine.py:Noise", *line, "--task", "1/2"]) == 0
    (desk / "else").mkdir()
    monkeypatch.chdir(desk / "else")
    assert main([f"{desk / 'mine.py'}:Noise", *line, "--task", "2/2"]) == 0
    assert len(open_dataset(desk / "set")) == 4


def test_the_default_folder_is_named_after_the_recipe(desk):
    assert main(["mine.py:Noise", "--count", "1"]) == 0
    assert len(open_dataset("data/Noise")) == 1


COLUMNS = ["columns", "--materials", "graphene", "--classes", "C", "Si", "other"]
COLUMNS += ["--scene.patch", "16", "--count", "3", "--out", "cols"]
SHAPES = {"image": (16, 16, 2), "heat": (16, 16), "vacant": (16, 16), "species": (16, 16, 3)}


def test_the_columns_recipe_draws_one_labelled_image():
    import jax

    _, recipe = parse(RECIPES["columns"], COLUMNS[1:], prog="emjax dataset columns")
    assert recipe.materials == ("graphene",)
    drawn = jax.eval_shape(recipe.build(), jax.random.key(0))  # traced, not compiled
    assert {name: array.shape for name, array in drawn.items()} == SHAPES


@pytest.mark.slow
def test_the_images_of_the_columns_recipe(desk):
    assert main(COLUMNS) == 0
    data = open_dataset("cols")
    assert {name: array.shape for name, array in data[2].items()} == SHAPES
    assert data.manifest["config"]["scene"]["patch"] == 16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--count", "3"], "the name comes before --count"),
        (["colums"], "there is no recipe 'colums': choose columns, or path/to/file.py:Name"),
        (["yours.py:Noise"], "there is no file yours.py"),
        (["mine.py:NotOne"], "defines no recipe NotOne"),
        (["mine.py:Nothing"], "defines no recipe Nothing"),
    ],
)
def test_mistakes(desk, words, message):
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        main(words)


def test_numbers_that_make_no_data_set(desk, capsys):
    for words in (["--count", "0"], ["--shards", "9", "--count", "3"], ["--task", "3/2"]):
        assert guarded(lambda words=words: main(["mine.py:Noise", *words])) == 1
    said = capsys.readouterr().err
    assert "at least one image" in said
    assert "from 1 to the number of images, 3" in said
    assert "such as 3/20" in said


def test_help_names_the_recipes(capsys):
    assert main(["--help"]) == 0
    assert "columns" in capsys.readouterr().out
    assert main([]) == 2
