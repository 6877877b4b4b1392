# SPDX-License-Identifier: Apache-2.0
"""The front end as a user meets it: help, messages, exit codes, what a refused or dry run leaves behind.

$NIGHTSHIFT_BIN is the folder that holds nightshift (and nightshift-rank, which is never started here for long).
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

try:
    import h5py
except ImportError:
    print("skipped: python3 has no h5py (Debian package python3-h5py)")
    sys.exit(77)

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ["NIGHTSHIFT_BIN"])
MODEL = ROOT / "inputs" / "models" / "tiny-tasks"
PROMPTS = ROOT / "inputs" / "prompts" / "quickstart.h5"
LINES = ROOT / "inputs" / "prompts" / "quickstart.jsonl"
COMMANDS = ["run", "submit", "convert", "inspect", "status", "report", "tokenize", "help", "completion", "manual"]


def nightshift(*arguments, stdin="", env=None, cwd=None):
    return subprocess.run([str(BIN / "nightshift"), *map(str, arguments)], input=stdin, capture_output=True, text=True,
                          timeout=120, env=env, cwd=cwd)


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="nightshift-cli-"))
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)

    def job(self, text=None, **keys):
        """A job file on the quickstart prompts; keys like model_path replace single lines."""
        values = {"job.input": PROMPTS, "job.output": self.dir / "out" / "answers.h5", "model.path": MODEL}
        values.update({key.replace("__", "."): value for key, value in keys.items()})
        sections = {}
        for key, value in values.items():
            section, name = key.split(".", 1)
            sections.setdefault(section, []).append(f"{name} = {json.dumps(str(value) if isinstance(value, pathlib.Path) else value)}")
        path = self.dir / "job.toml"
        path.write_text(text if text is not None else "\n".join(f"[{s}]\n" + "\n".join(lines) for s, lines in sections.items()) + "\n")
        return path

    def refused(self, *arguments, words, code=2, **options):
        done = nightshift(*arguments, **options)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertEqual(done.stderr.count("nightshift: "), 1, f"one message: {done.stderr}")
        for word in words:
            self.assertIn(word, done.stderr)

    def run_refused(self, *words, job=None, extra=(), **keys):
        """`run` and `run --dry-run` refuse alike, and neither leaves a trace."""
        path = job or self.job(**keys)
        before = sorted(map(str, self.dir.rglob("*")))
        for mode in ([], ["--dry-run"]):
            self.refused("run", path, *mode, *extra, words=words)
            self.assertEqual(sorted(map(str, self.dir.rglob("*"))), before)


class CommandLine(Case):
    def test_every_command_has_help_with_an_example(self):
        for command in COMMANDS:
            done = nightshift(command, "--help")
            self.assertEqual(done.returncode, 0, command)
            self.assertIn("Example", done.stdout, command)
            self.assertIn(f"nightshift {command}", done.stdout, command)
            self.assertEqual(done.stderr, "")

    def test_help_lists_all_commands_and_exit_codes(self):
        text = nightshift("--help").stdout
        for word in [*COMMANDS, "75"]:
            self.assertIn(word, text)
        self.assertEqual(nightshift("help").stdout, text)

    def test_nothing_to_do_is_an_error(self):
        self.assertEqual(nightshift().returncode, 2)

    def test_unknown_names_are_met_with_the_nearest(self):
        self.refused("rnu", words=["unknown command rnu", "did you mean run?"])
        self.refused("frobnicate", words=["unknown command", "commands: run, submit, convert"])
        self.refused("run", "job.toml", "--dryrun", words=["unknown option --dryrun", "did you mean --dry-run?"])
        self.refused("run", "job.toml", "--rank=2", words=["unknown option --rank", "did you mean --ranks?"])
        self.refused("--versoin", words=["did you mean --version?"])
        self.refused("completion", "tcsh", words=["tcsh"])

    def test_missing_and_surplus_arguments(self):
        self.refused("run", words=["run: job"])
        self.refused("run", "a.toml", "b.toml", words=["unexpected argument b.toml"])
        self.refused("run", "a.toml", "--ranks", "two", words=["--ranks"])
        self.refused("run", "a.toml", "--resume", "--restart", words=["--res"])
        self.refused("report", "a.h5", "--min-right", "0.5", words=["--expected"])

    def test_version_tells_revision_and_kernel_sets(self):
        done = nightshift("--version")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r"^nightshift \d+\.\d+\.\d+ \(revision \S+\)\nkernel sets: portable")

    def test_help_job_has_every_key(self):
        text = nightshift("help", "job").stdout
        for key in ["[job]", "max_failed", "[schedule]", "kv_memory", "[sampling]", "temperature", "stop_before_end_seconds",
                    "random:SEED", "Chrome trace"]:
            self.assertIn(key, text)

    def test_manual_page_is_clean_roff(self):
        page = nightshift("manual").stdout
        self.assertTrue(page.startswith(".TH NIGHTSHIFT 1"))
        for command in COMMANDS:
            self.assertIn(f".SS nightshift {command}", page)
        if shutil.which("groff"):
            done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=page, capture_output=True, text=True)
            self.assertEqual(done.stderr, "")

    def test_completion_scripts_are_sound(self):
        for shell in ["bash", "zsh", "fish"]:
            script = nightshift("completion", shell).stdout
            for word in [*COMMANDS, "dry-run", "sampling.temperature="]:
                self.assertIn(word, script, shell)
            if shutil.which(shell):
                done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True)
                self.assertEqual((done.returncode, done.stderr), (0, ""), shell)

    def test_bash_completion_completes(self):
        script = nightshift("completion", "bash").stdout
        probe = 'COMP_WORDS=({0}); COMP_CWORD={1}; compopt() {{ :; }}; _nightshift; echo "${{COMPREPLY[@]}}"'
        for words, at, expected in [("nightshift ru", 1, "run"), ("nightshift run --dr", 2, "--dry-run"),
                                    ("nightshift run j.toml --set job.na", 4, "job.name=")]:
            done = subprocess.run(["bash", "-c", script + probe.format(words, at)], capture_output=True, text=True)
            self.assertEqual(done.stdout.strip(), expected)

    def test_no_mpi_kokkos_or_cuda_in_the_front_end(self):
        libraries = subprocess.run(["ldd", str(BIN / "nightshift")], capture_output=True, text=True).stdout.lower()
        self.assertIn("libstdc++", libraries)
        for word in ["libmpi", "open-rte", "libpmix", "kokkos", "cuda", "libgomp", "nccl"]:
            self.assertNotIn(word, libraries)


class JobFile(Case):
    def test_missing_or_broken_file(self):
        self.refused("run", self.dir / "none.toml", words=["no job file"])
        self.run_refused("job.toml:2", "not valid TOML", job=self.job("[job]\ninput = \n"))

    def test_unknown_key_names_line_and_nearest(self):
        self.run_refused("job.toml:2", "unknown key job.imput", "did you mean input?", job=self.job("[job]\nimput = 'x'\n"))
        self.run_refused("unknown key [sampler]", "did you mean sampling?", job=self.job("[sampler]\n"))

    def test_wrong_values_and_overrides(self):
        self.run_refused("schedule.max_sequences", "integer", schedule__max_sequences="many")
        self.run_refused("sampling.temperature", sampling__temperature=-1)
        self.run_refused("--set sampling.temprature", "did you mean temperature?", extra=["--set", "sampling.temprature=1"])
        self.run_refused("--set nonsense", "section.key=value", extra=["--set", "nonsense"])

    def test_contradicting_geometry(self):
        self.run_refused("contradicts", parallel__replicas=3, extra=["--ranks", "2"])
        self.run_refused("--ranks 3", "no whole number of replicas of 2 ranks", "take 2 or 4 ranks",
                         parallel__sequence=2, extra=["--ranks", "3"])

    def test_degrees_that_the_model_does_not_allow(self):
        # tiny-tasks has 8 heads and 4 KV heads
        self.run_refused("8 heads and 4 KV heads cannot be shared by 3 ranks", "legal for this model: 1x1, 2x1, 1x2, 4x1",
                         parallel__sequence=3)
        self.run_refused("sequence 1 x tensor 16", "legal for this model", parallel__tensor=16)

    def test_shift_settings(self):
        for wrong in ["sometimes", -1, "random:", "10 tokens"]:
            self.run_refused("parallel.shift", "it takes auto, never, always, or a token count", parallel__shift=wrong)
        for right in ["never", 64, "random:3"]:
            done = nightshift("run", self.job(parallel__shift=right, parallel__sequence=2), "--dry-run")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(f"shift {right}", done.stderr)

    def test_trace_file(self):
        self.run_refused("run.trace", "name a .json file", run__trace=self.dir / "trace.txt")
        (self.dir / "file").write_text("")
        self.run_refused("cannot write to", "run.trace", run__trace=self.dir / "file" / "trace.json")
        done = nightshift("run", self.job(run__trace=self.dir / "out" / "trace.json"), "--dry-run")
        self.assertIn(f"trace:    {self.dir}/out/trace.json", done.stderr)

    def test_device_without_gpu(self):
        if "cuda" not in nightshift("--version").stdout:
            self.run_refused("run.device", "cpu", run__device="cuda")


class Input(Case):
    def test_missing_and_foreign_files(self):
        self.run_refused("no input", job__input=self.dir / "none.h5")
        (self.dir / "text.h5").write_text("no HDF5")
        self.run_refused("text.h5", job__input=self.dir / "text.h5")

    def test_malformed_structure(self):
        empty, both, twice = (self.dir / name for name in ["empty.h5", "both.h5", "twice.h5"])
        h5py.File(empty, "w").close()
        with h5py.File(both, "w") as f:
            f["prompts/text"] = ["a"]
            f["prompts/messages"] = ["[]"]
        with h5py.File(twice, "w") as f:
            f["prompts/text"] = ["a", "b"]
            f["prompts/id"] = ["same", "same"]
        self.run_refused("empty.h5", "/prompts/", job__input=empty)
        self.run_refused("both.h5", job__input=both)
        self.run_refused("twice.h5", "same", job__input=twice)

    def test_cut_off_file(self):
        (self.dir / "cut.h5").write_bytes(PROMPTS.read_bytes()[:100_000])
        self.run_refused("cut.h5", job__input=self.dir / "cut.h5")

    def test_unknown_parameter_column(self):
        with h5py.File(self.dir / "p.h5", "w") as f:
            f["prompts/text"] = ["a"]
            f["params/temprature"] = [0.5]
        self.run_refused("temprature", job__input=self.dir / "p.h5")

    def test_broken_lines_are_refused_and_leave_nothing(self):
        (self.dir / "bad.jsonl").write_text(LINES.read_text().splitlines()[0] + "\n{not json\n")
        path = self.job(job__input=self.dir / "bad.jsonl")
        self.refused("run", path, words=["line 2"])
        self.assertFalse((self.dir / "out" / "answers.h5.journal").exists())


class Model(Case):
    def copy_model(self):
        shutil.copytree(MODEL, self.dir / "model")
        return self.dir / "model"

    def test_missing_directory_and_files(self):
        self.run_refused("no model directory", model__path=self.dir / "none")
        for name in ["config.json", "tokenizer.json", "model.safetensors"]:
            model = self.copy_model()
            (model / name).unlink()
            self.run_refused(name, model__path=model)
            shutil.rmtree(model)

    def test_broken_files(self):
        for name in ["config.json", "tokenizer.json"]:
            model = self.copy_model()
            (model / name).write_text("{")
            self.run_refused(name, model__path=model)
            shutil.rmtree(model)
        model = self.copy_model()
        (model / "model.safetensors").write_bytes((MODEL / "model.safetensors").read_bytes()[:100_000])
        self.run_refused("model.safetensors", model__path=model)

    def test_unsupported_family(self):
        model = self.copy_model()
        config = json.loads((model / "config.json").read_text())
        config["model_type"] = "rwkv"
        (model / "config.json").write_text(json.dumps(config))
        self.run_refused("rwkv", "llama", model__path=model)

    def test_chat_without_template(self):
        self.run_refused("chat template", model__chat_template="none")

    def test_context_beyond_the_model(self):
        self.run_refused("max_context", "2048", model__max_context=4096)

    def test_not_enough_memory(self):
        self.run_refused("free", "needs at least 900.0 TiB", schedule__kv_memory="900TiB", extra=["--ranks", "1"])


class Output(Case):
    def test_output_that_cannot_be(self):
        self.run_refused("is a folder", job__output=self.dir)
        (self.dir / "file").write_text("")
        self.run_refused("cannot write to", job__output=self.dir / "file" / "answers.h5")

    def test_foreign_output_is_not_overwritten(self):
        (self.dir / "thesis.h5").write_text("my thesis")
        self.run_refused("not the result of a job", "--restart", job__output=self.dir / "thesis.h5")
        self.assertEqual((self.dir / "thesis.h5").read_text(), "my thesis")

    def test_dry_run_prints_command_and_job_and_leaves_no_trace(self):
        path = self.job()
        before = sorted(map(str, self.dir.rglob("*")))
        done = nightshift("run", path, "--dry-run", "--ranks", "2", "--set", "sampling.max_tokens=7")
        self.assertEqual(done.returncode, 0, done.stderr)
        first, rest = done.stdout.split("\n", 1)
        self.assertRegex(first, r"OMP_WAIT_POLICY=passive .*mpirun -np 2 .*nightshift-rank .*answers\.h5\.journal$")
        (self.dir / "again.toml").write_text(rest)  # what is printed is a job file
        again = nightshift("run", self.dir / "again.toml", "--dry-run", "--ranks", "2")
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertIn("max_tokens = 7", again.stdout)
        (self.dir / "again.toml").unlink()
        self.assertIn("memory:", done.stderr)
        self.assertEqual(sorted(map(str, self.dir.rglob("*"))), before)

    def test_dry_run_prints_the_geometry(self):
        path = self.job(parallel__sequence=2, parallel__tensor=2)
        done = nightshift("run", path, "--dry-run", "--ranks", "8", "--set", "run.threads=1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("ranks:    8 ranks = 2 replicas x (sequence 2 x tensor 2), shift auto, 1 thread each", done.stderr)
        self.assertRegex(done.stderr, r"memory: +at least .* of weights once, .* for each of 8 ranks; .* free here")
        self.assertIn(" -np 8 ", done.stdout)
        for line in ["replicas = 2", "sequence = 2", "tensor = 2", 'shift = "auto"']:
            self.assertIn(line, done.stdout)
        one = nightshift("run", self.job(), "--dry-run", "--ranks", "1", "--set", "run.threads=2")
        self.assertIn("ranks:    1 rank, 2 threads", one.stderr)
        self.assertNotIn("shift", one.stderr)

    def test_ranks_of_a_replica_where_nobody_says_how_many(self):
        done = nightshift("run", self.job(parallel__tensor=8), "--dry-run")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("8 ranks = 1 replica x (sequence 1 x tensor 8)", done.stderr)

    def test_resume_wants_a_journal(self):
        self.refused("run", self.job(), "--resume", words=["no journal"])

    def test_launcher_must_be_there(self):
        self.run_refused_env = dict(os.environ, PATH="/nonexistent")
        self.refused("run", self.job(), words=["mpirun is not in PATH"], env=self.run_refused_env)

    def test_submit_dry_run_prints_command_and_script_and_leaves_no_trace(self):
        before = sorted(map(str, self.dir.rglob("*")))
        done = nightshift("submit", self.job(), "--dry-run", "--time", "1:00", "--set", "sampling.temperature=0.5", "--", "--qos=low")
        self.assertEqual(done.returncode, 0, done.stderr)
        script = self.dir / "job.sbatch"
        script.write_text(done.stdout)
        self.assertEqual(subprocess.run(["bash", "-n", script]).returncode, 0)
        self.assertIn(f"exec {BIN.resolve() / 'nightshift'} run {self.dir / 'job.toml'} --set sampling.temperature=0.5\n", done.stdout)
        self.assertTrue(done.stderr.startswith("sbatch --parsable "), done.stderr)
        self.assertTrue(done.stderr.endswith(" --time=1:00 --qos=low\n"), done.stderr)
        self.assertIn(f"--output={self.dir}/out/answers-%j.log", done.stderr)
        script.unlink()
        self.assertEqual(sorted(map(str, self.dir.rglob("*"))), sorted([*before, str(self.dir / "job.toml")]))

    def test_submit_templates_are_sound_scripts(self):
        for name, extra in {"single": [], "multi": ["--nodes", "3"], "preemptible": ["--chain", "2"],
                            "array": ["--input", PROMPTS, "--input", LINES, "--set", "job.output=/tmp/x y.h5"]}.items():
            if name == "array":
                shutil.copy(LINES, self.dir / "lines.jsonl")
                extra[3] = self.dir / "lines.jsonl"
            done = nightshift("submit", self.job(), "--dry-run", "--template", name, *extra)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(subprocess.run(["bash", "-n"], input=done.stdout, text=True).returncode, 0, name)
            self.assertNotRegex(done.stdout, "@[A-Z]+@", name)
            self.assertEqual("--dependency=afternotok:" in done.stderr, name == "preemptible")

    def test_submit_refuses_what_the_job_would_be_refused_for(self):
        self.refused("submit", self.job(job__input=self.dir / "none.h5"), words=["no input", "none.h5"])
        self.refused("submit", self.job(model__path=self.dir), words=["config.json"])
        self.refused("submit", self.job(), "--template", "arry", words=["did you mean array"])
        self.refused("submit", self.job(), "--template", "array", words=["--input"])
        self.refused("submit", self.job(), "--input", PROMPTS, words=["--template array"])
        self.refused("submit", self.job(), "--chain", "0", words=["--chain"])
        self.refused("submit", self.job(), "--template", "array", "--input", PROMPTS, "--input", PROMPTS, words=["two inputs"])

    def test_submit_without_slurm(self):
        self.refused("submit", self.job(), words=["sbatch is not in PATH", "--dry-run"], env={"PATH": "/nonexistent"})

    def test_submit_passes_sbatch_the_script_and_the_chain(self):
        """A program of the test's own stands in for sbatch: it keeps what it is given. tests/e2e/slurm.py has the real one."""
        fake = self.dir / "sbatch"
        fake.write_text('#!/bin/bash\ncd "$(dirname "$0")"\nn=$(ls script.* 2> /dev/null | wc -l)\n'
                        'printf "%s\\n" "$@" > words.$n\ncat > script.$n\n((n < 2)) || exit 1\necho "$((100 + n));east"\n')
        fake.chmod(0o755)
        env = {**os.environ, "PATH": f"{self.dir}:{os.environ['PATH']}"}
        done = nightshift("submit", self.job(), "--chain", "2", env=env)
        self.assertEqual((done.returncode, done.stdout), (0, "100\n101\n"), done.stderr)
        self.assertIn("scancel 100 101", done.stderr)
        self.assertNotIn("--dependency", (self.dir / "words.0").read_text())
        self.assertIn("--dependency=afternotok:100\n", (self.dir / "words.1").read_text())
        dry = nightshift("submit", self.job(), "--dry-run", env=env).stdout
        for n in range(2):
            self.assertEqual((self.dir / f"script.{n}").read_text(), dry)
        self.assertTrue((self.dir / "out").is_dir(), "the log's folder, which Slurm would not make")
        self.refused("submit", self.job(), words=["sbatch refused the job"], code=1, env=env)

    def test_status_and_report_of_nothing(self):
        self.refused("status", self.dir / "none.h5", words=["exists"])
        self.refused("report", self.dir / "none.h5", words=["exists"])
        self.refused("report", PROMPTS, words=["not a result"])


class Tools(Case):
    def test_inspect_both_kinds(self):
        self.assertEqual(json.loads(nightshift("inspect", PROMPTS, "--json").stdout)["rows"], 1000)
        self.assertEqual(json.loads(nightshift("inspect", MODEL, "--json").stdout)["family"], "llama")
        self.assertIn("/prompts/messages", nightshift("inspect", PROMPTS).stdout)
        self.assertIn("attention", nightshift("inspect", MODEL).stdout)
        self.refused("inspect", self.dir / "none", words=["none"])

    def test_convert_there_and_back(self):
        there, back = self.dir / "p.h5", self.dir / "p.jsonl"
        self.assertEqual(nightshift("convert", LINES, there).returncode, 0)
        self.assertEqual(nightshift("convert", there, back).returncode, 0)
        expected = [json.loads(line) for line in LINES.read_text().splitlines()]
        self.assertEqual([json.loads(line) for line in back.read_text().splitlines()], expected)
        self.refused("convert", LINES, there, words=["exists already", "--force"])
        self.assertEqual(nightshift("convert", LINES, there, "--force").returncode, 0)
        self.refused("convert", there, self.dir / "other.h5", words=[".jsonl"])
        self.refused("convert", self.dir / "none.jsonl", there, words=["no file"])

    def test_tokenize_round_trip_and_chat(self):
        texts = ["Sort: 3 2 1", "", "Grüße, 世界"]
        lines = "".join(json.dumps(t) + "\n" for t in texts)
        ids = nightshift("tokenize", MODEL, "--no-special", stdin=lines)
        self.assertEqual(ids.returncode, 0, ids.stderr)
        back = nightshift("tokenize", MODEL, "--decode", stdin=ids.stdout)
        self.assertEqual([json.loads(line) for line in back.stdout.splitlines()], texts)
        chat = json.dumps([{"role": "user", "content": "Hi"}]) + "\n"
        rendered = nightshift("tokenize", MODEL, "--chat", "--text", stdin=chat)
        self.assertIn("Hi", json.loads(rendered.stdout))
        as_ids = nightshift("tokenize", MODEL, "--chat", stdin=chat)
        plain = nightshift("tokenize", MODEL, "--no-special", stdin=rendered.stdout)
        self.assertEqual(json.loads(as_ids.stdout), json.loads(plain.stdout))

    def test_tokenize_keeps_line_numbers_past_bad_lines(self):
        done = nightshift("tokenize", MODEL, stdin='"a"\nnot json\n[1]\n"b"\n')
        self.assertEqual(done.returncode, 1)
        values = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([v is None for v in values], [False, True, True, False])
        self.assertIn("line 2", done.stderr)

    def test_tokenize_answers_line_by_line(self):
        child = subprocess.Popen([str(BIN / "nightshift"), "tokenize", str(MODEL)], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, text=True)
        for text in ["one", "two"]:
            child.stdin.write(json.dumps(text) + "\n")
            child.stdin.flush()
            self.assertTrue(json.loads(child.stdout.readline()))
        child.stdin.close()
        self.assertEqual(child.wait(timeout=10), 0)
        child.stdout.close()


if __name__ == "__main__":
    unittest.main(verbosity=1)
