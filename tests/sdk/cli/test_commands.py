"""Each command on a real bundle, for people and for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from offramp.bundle import Bundle, pack_bundle
from offramp.classifier import DynamicClassifier

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from offramp.bundle import Policy

# What 84 images can certify on a network with random weights.
LOOSE = ("--limit", "0.3", "--confidence", "0.8")


@pytest.fixture
def calibrated(bundle: Bundle, make_policy: Callable[..., Policy]) -> Bundle:
    return bundle.add_policy(make_policy()).add_policy(make_policy(program="litert/float32"))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(image).save(path)
    return path


class TestPredict:
    def test_it_says_what_the_classifier_says(
        self, offramp: Callable[..., Any], calibrated: Bundle, picture: Path
    ) -> None:
        with DynamicClassifier.load(calibrated.path) as classifier:
            expected = classifier.predict(picture)
        ran = offramp("predict", calibrated.path, picture, picture, "--json")
        assert (ran.code, ran.err) == (0, "")
        first, second = ran.json
        assert first["image"] == second["image"] == str(picture)
        assert (first["label"], first["index"], first["exit"], first["reason"]) == (
            expected.label,
            expected.index,
            expected.exit,
            expected.reason,
        )
        assert first["score"] == pytest.approx(expected.score)
        assert len(first["stage_ms"]) == expected.exit + 1
        assert first["categories"] == [
            {"index": expected.index, "score": first["score"], "label": expected.label}
        ]

    def test_the_table_has_a_line_for_each_class_asked_for(
        self, offramp: Callable[..., Any], calibrated: Bundle, picture: Path
    ) -> None:
        ran = offramp("predict", calibrated.path, picture, "--top", "3")
        assert ran.code == 0
        assert "reason" in ran.out
        assert sum(label in ran.out for label in calibrated.manifest.labels) == 3

    def test_policy_and_program_are_chosen(
        self, offramp: Callable[..., Any], calibrated: Bundle, picture: Path
    ) -> None:
        arguments = ("predict", calibrated.path, picture, "--json", "--policy", "last")
        for program in ("litert/float32", "litert/int8"):
            (answer,) = offramp(*arguments, "--program", program).json
            with DynamicClassifier.load(calibrated, program=program, policy="last") as classifier:
                assert answer["score"] == pytest.approx(classifier.predict(picture).score)
            assert (answer["exit"], answer["reason"]) == (2, "last_exit")

    def test_deadlines(self, offramp: Callable[..., Any], bundle: Bundle, picture: Path) -> None:
        arguments = ("predict", bundle.path, picture, "--json", "--policy", "last")
        ran = offramp(*arguments, "--deadline-ms", "1e-6")
        assert (ran.code, ran.out) == (2, "")
        assert "but stage 0 alone takes up to" in ran.err
        (answer,) = offramp(*arguments, "--deadline-ms", "60000").json
        assert (answer["exit"], answer["reason"]) == (2, "last_exit")

    def test_what_is_listed_and_looked_at(
        self, offramp: Callable[..., Any], calibrated: Bundle, picture: Path
    ) -> None:
        options = ("--roi", "0.1,0.2,0.6,0.9", "--rotate", "270", "--top", "2")
        lists = ("--deny", "ant", "--deny", "bee", "--min-score", "0.05")
        arguments = ("predict", calibrated.path, picture, picture, *options, *lists)
        with DynamicClassifier.load(calibrated.path) as classifier:
            expected = classifier.predict(
                picture,
                region_of_interest=(0.1, 0.2, 0.6, 0.9),
                rotation_degrees=270,
                max_results=2,
                category_denylist=["ant", "bee"],
                score_threshold=0.05,
            )
        first, second = offramp(*arguments, "--json", "--workers", "2").json
        for answer in (first, second):
            assert [category["label"] for category in answer["categories"]] == [
                category.label for category in expected.categories
            ]
            assert answer["score"] == pytest.approx(expected.score)
            assert (answer["policy"], answer["abstained"]) == ("default", False)
        (only,) = offramp("predict", calibrated.path, picture, "--allow", "elk", "--json").json
        assert [category["label"] for category in only["categories"]] == ["elk"]
        ran = offramp("predict", calibrated.path, picture, "--min-score", "2")
        assert "(none)" in ran.out

    def test_a_withheld_answer_has_a_line(
        self,
        offramp: Callable[..., Any],
        bundle: Bundle,
        picture: Path,
        make_policy: Callable[..., Policy],
    ) -> None:
        bundle = bundle.add_policy(make_policy(abstain_below=1.0))
        assert "(withheld)" in offramp("predict", bundle.path, picture).out
        (answer,) = offramp("predict", bundle.path, picture, "--json").json
        assert (answer["abstained"], answer["categories"]) == (True, [])
        assert answer["label"] in bundle.manifest.labels

    def test_what_cannot_be_used_is_said_in_one_sentence(
        self, offramp: Callable[..., Any], bundle: Bundle, calibrated: Bundle, tmp_path: Path
    ) -> None:
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"no image")
        for arguments, words in (
            ((tmp_path / "nowhere", broken), "nowhere"),
            ((calibrated.path, broken), "broken.png"),
            ((calibrated.path, tmp_path / "missing.png"), "missing.png"),
            ((calibrated.path, broken, "--program", "litert/float16"), "litert/float16"),
            ((calibrated.path, broken, "--policy", "none"), "'none'"),
        ):
            ran = offramp("predict", *arguments)
            assert (ran.code, ran.out) == (2, ""), words
            assert ran.err.startswith("offramp: ")
            assert words in ran.err
            assert ran.err.count("\n") == 1

    @pytest.mark.parametrize(
        "option",
        [
            ("--deadline-ms", "0"),
            ("--top", "0"),
            ("--threads", "0"),
            ("--workers", "0"),
            ("--roi", "0,0,1"),
            ("--roi", "0,0,a,1"),
        ],
    )
    def test_options_out_of_range_are_refused(
        self, offramp: Callable[..., Any], calibrated: Bundle, picture: Path, option: Any
    ) -> None:
        ran = offramp("predict", calibrated.path, picture, *option)
        assert ran.code == 2
        assert option[0] in ran.err

    @pytest.mark.parametrize(
        ("option", "words"),
        [
            (("--roi", "0,0,0,1"), "left < right"),
            (("--rotate", "45"), "multiple of 90"),
            (("--allow", "elks"), "did you mean 'elk'"),
            (("--allow", "elk", "--deny", "ant"), "both"),
        ],
    )
    def test_options_that_make_no_sense_are_refused(
        self,
        offramp: Callable[..., Any],
        calibrated: Bundle,
        picture: Path,
        option: Any,
        words: str,
    ) -> None:
        ran = offramp("predict", calibrated.path, picture, *option)
        assert (ran.code, ran.out) == (2, "")
        assert words in " ".join(ran.err.replace("│", " ").split())


class TestCalibrate:
    def test_the_policies_it_writes_are_used(
        self, offramp: Callable[..., Any], bundle: Bundle, photos: Path
    ) -> None:
        ran = offramp("calibrate", bundle.path, photos, *LOOSE, "--seed", "4", "--json")
        assert (ran.code, ran.err) == (0, "")
        written = Bundle.open(bundle.path).manifest.policies
        assert [report["feasible"] for report in ran.json] == [True, True]
        for policy, report in zip(written, ran.json, strict=True):
            expected = json.loads(msgspec.json.encode(policy)) | {"vector_exits": []}
            assert report["policy"] == expected
        assert [policy.program for policy in written] == ["litert/float32", "litert/int8"]
        for policy in written:
            (certificate,) = policy.certificates
            assert (certificate.limit, certificate.confidence) == (0.3, 0.8)
            assert (certificate.images_fit, certificate.images_certified) == (36, 84)
            assert certificate.seed == 4
            assert len(policy.vector_exits) == 8
        picture = next(photos.rglob("*.png"))
        assert offramp("predict", bundle.path, picture).code == 0
        assert offramp("verify", bundle.path).code == 0

    def test_one_program_under_another_name_and_signal(
        self, offramp: Callable[..., Any], bundle: Bundle, photos: Path
    ) -> None:
        for name in ("saver", "default"):
            ran = offramp(
                *("calibrate", bundle.path, photos, *LOOSE, "--program", "litert/int8"),
                *("--policy-name", name, "--signal", "margin"),
            )
            assert ran.code == 0
            assert "drop of accuracy" in ran.out
            assert "80 % confidence" in ran.out
            assert ran.out.startswith("120 images; to promise this takes 8 at the very least")
        written = Bundle.open(bundle.path).manifest.policies
        assert [(policy.name, policy.signal) for policy in written] == [
            ("saver", "margin"),
            ("default", "margin"),
        ]

    def test_the_float_network_can_be_the_reference(
        self, offramp: Callable[..., Any], bundle: Bundle, photos: Path
    ) -> None:
        ran = offramp(
            *("calibrate", bundle.path, photos, *LOOSE, "--program", "litert/int8"),
            *("--reference", "float", "--json"),
        )
        assert ran.code == 0
        (report,) = ran.json
        assert report["program"] == "litert/int8"
        assert report["policy"]["certificates"][0]["reference"] == "float"

    def test_no_early_exit_is_said_plainly(
        self, offramp: Callable[..., Any], bundle: Bundle, photos: Path
    ) -> None:
        limits = ("--limit", "0.03", "--confidence", "0.8")
        ran = offramp("calibrate", bundle.path, photos, *limits)
        assert ran.code == 0
        disabled = [
            policy
            for policy in Bundle.open(bundle.path).manifest.policies
            if not any(policy.enabled[:-1])
        ]
        assert disabled
        assert ran.out.count("so all are disabled") == len(disabled)

    def test_promises_about_time_take_a_measurement(
        self, offramp: Callable[..., Any], bundle: Bundle, photos: Path, tmp_path: Path
    ) -> None:
        arguments = ("calibrate", bundle.path, photos, "--program", "litert/int8", "--json")
        wanted = ("--mean-ms", "1000", "--tail-ms", "1000", "--quantile", "0.9")
        ran = offramp(*arguments, *wanted)
        assert ran.code == 2
        assert "offramp profile --save" in ran.err
        profile = ("profile", bundle.path, "--program", "litert/int8", "--runs", "100")
        measured = offramp(*profile, "--json")
        (tmp_path / "latency.json").write_text(measured.out)
        assert offramp(*arguments, *wanted, "--latency", tmp_path / "latency.json").code == 0
        assert offramp(*profile, "--save").code == 0
        ran = offramp(*arguments, *wanted)
        assert ran.code == 0
        kinds = [one["kind"] for one in ran.json[0]["policy"]["certificates"]]
        assert kinds == ["mean_latency", "tail_latency"]
        assert ran.json[0]["policy"]["certificates"][0]["device"]["processor"]

    def test_what_cannot_be_kept_is_said_and_not_written(
        self, offramp: Callable[..., Any], bundle: Bundle, photos: Path, tmp_path: Path
    ) -> None:
        np.save(tmp_path / "times.npy", np.array([1.0, 1.0, 1.0])[:, None])
        ran = offramp(
            *("calibrate", bundle.path, photos, *LOOSE, "--mean-ms", "0.5"),
            *("--latency", tmp_path / "times.npy"),
        )
        assert ran.code == 1
        assert ran.out.count("Not written: no policy of") == 2
        assert "The nearest that could be: with accuracy_drop kept, mean_ms of" in ran.out
        assert Bundle.open(bundle.path).manifest.policies == ()

    def test_images_of_unknown_class_will_do_for_some(
        self, offramp: Callable[..., Any], bundle: Bundle, photos: Path
    ) -> None:
        arguments = ("calibrate", bundle.path, photos, "--unlabelled", "--confidence", "0.8")
        assert "without labels" in offramp(*arguments, "--limit", "0.3").err
        ran = offramp(*arguments, "--disagreement", "0.3")
        assert ran.code == 0
        assert "answers at most 30 % of the images unlike its own last exit" in ran.out

    def test_logits_that_were_saved_will_do(
        self, offramp: Callable[..., Any], bundle: Bundle, tmp_path: Path
    ) -> None:
        rng = np.random.default_rng(0)
        np.save(tmp_path / "z.npy", rng.normal(size=(3, 200, 5)).astype(np.float32))
        np.save(tmp_path / "y.npy", rng.integers(0, 5, 200))
        arguments = ("calibrate", bundle.path, "--logits", tmp_path / "z.npy", *LOOSE)
        assert "say which with --program" in offramp(*arguments).err
        of_int8 = (*arguments, "--program", "litert/int8")
        assert "without labels" in offramp(*of_int8).err
        ran = offramp(*of_int8, "--labels", tmp_path / "y.npy", "--json")
        assert ran.code == 0
        (policy,) = Bundle.open(bundle.path).manifest.policies
        assert policy.program == "litert/int8"
        (tmp_path / "bad.npy").write_bytes(b"nothing")
        ran = offramp(*of_int8, "--labels", tmp_path / "bad.npy")
        assert (ran.code, "give a .npy file" in ran.err) == (2, True)
        assert "either DATA_FOLDER or --logits" in offramp("calibrate", bundle.path).err

    def test_too_few_images_are_told_before_anything_runs(
        self, offramp: Callable[..., Any], bundle: Bundle, photos: Path
    ) -> None:
        before = (bundle.path / "manifest.json").read_bytes()
        ran = offramp("calibrate", bundle.path, photos)
        assert (ran.code, ran.out) == (2, "")
        assert "398" in ran.err
        assert (bundle.path / "manifest.json").read_bytes() == before

    def test_what_it_cannot_write_or_read_is_refused(
        self, offramp: Callable[..., Any], bundle: Bundle, photos: Path, tmp_path: Path
    ) -> None:
        packed = pack_bundle(bundle, tmp_path / "bundle.zip").path
        (tmp_path / "odd" / "zebra").mkdir(parents=True)
        for arguments, words in (
            ((packed, photos, *LOOSE), "unpack"),
            ((bundle.path, tmp_path / "nowhere"), "nowhere"),
            ((bundle.path, tmp_path / "odd"), "zebra"),
            ((bundle.path, photos, "--limit", "0"), "accuracy_drop"),
            ((bundle.path, photos, *LOOSE, "--program", "coreml/float16"), "coreml/float16"),
        ):
            ran = offramp("calibrate", *arguments)
            assert (ran.code, ran.out) == (2, ""), words
            assert words in ran.err
            assert ran.err.count("\n") == 1


class TestInspect:
    def test_json_is_the_manifest(self, offramp: Callable[..., Any], calibrated: Bundle) -> None:
        ran = offramp("inspect", calibrated.path, "--json")
        assert ran.json == json.loads((calibrated.path / "manifest.json").read_bytes())

    def test_people_see_what_they_trust(
        self, offramp: Callable[..., Any], bundle: Bundle, photos: Path
    ) -> None:
        assert "No policies" in offramp("inspect", bundle.path).out
        offramp("calibrate", bundle.path, photos, *LOOSE)
        offramp("profile", bundle.path, "--runs", "10", "--save")
        out = offramp("inspect", bundle.path).out
        for words in (
            *("5 classes", "12×12 RGB", "stage_2", "1×6×6×8", "litert/int8", "always"),
            *("80 % confidence", "84 images", "median ms", "threads: 1", "offramp tests"),
        ):
            assert words in out, words

    def test_a_changed_file_is_refused(self, offramp: Callable[..., Any], bundle: Bundle) -> None:
        program = bundle.path / "litert" / "int8.tflite"
        program.write_bytes(program.read_bytes()[:-1] + b"\x01")
        ran = offramp("inspect", bundle.path)
        assert ran.code == 2
        assert "int8.tflite" in ran.err


class TestVerify:
    def test_certificates_are_checked_on_new_images(
        self, offramp: Callable[..., Any], bundle: Bundle, photos: Path
    ) -> None:
        offramp("calibrate", bundle.path, photos, *LOOSE, "--disagreement", "0.4")
        ran = offramp("verify", bundle.path, "--data", photos)
        assert ran.code == 0
        assert ran.out.count("accuracy_drop of at most 30.00% confirmed: 120 images") == 2
        unlabelled = offramp("verify", bundle.path, "--data", photos, "--unlabelled")
        assert unlabelled.code == 0
        assert unlabelled.out.count("not checked: it needs labelled images") == 2
        strict = ("verify", bundle.path, "--data", photos, "--unlabelled", "--strict", "--json")
        assert offramp(*strict).code == 1

    def test_a_certificate_that_no_longer_holds(
        self, offramp: Callable[..., Any], bundle: Bundle, photos: Path
    ) -> None:
        offramp("calibrate", bundle.path, photos, "--disagreement", "0.3", "--confidence", "0.8")
        opened = Bundle.open(bundle.path)
        for policy in opened.manifest.policies:
            (certificate,) = policy.certificates
            lied = msgspec.structs.replace(certificate, limit=0.01, observed=0.0, upper_bound=0.0)
            eager = msgspec.structs.replace(
                policy, certificates=(lied,), thresholds=(0.0, 0.0, 0.0), enabled=(True,) * 3
            )
            opened = opened.add_policy(eager)
        ran = offramp("verify", bundle.path, "--data", photos)
        assert ran.code == 1
        assert ran.out.count("disagreement of at most 1.00% broken") == 2
        assert offramp("verify", bundle.path, "--data", photos, "--json").json["ok"] is False

    def test_there_must_be_certificates_to_check(
        self, offramp: Callable[..., Any], calibrated: Bundle, photos: Path
    ) -> None:
        ran = offramp("verify", calibrated.path, "--data", photos)
        assert (ran.code, "has no certificates" in ran.err) == (2, True)
        assert "--data" in offramp("verify", calibrated.path, "--strict").err

    def test_a_sound_bundle(self, offramp: Callable[..., Any], calibrated: Bundle) -> None:
        ran = offramp("verify", calibrated.path)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.count(": ok: 8 images") == 2

    def test_a_failure_is_exit_code_1_and_says_where(
        self, offramp: Callable[..., Any], calibrated: Bundle
    ) -> None:
        manifest = json.loads((calibrated.path / "manifest.json").read_bytes())
        recorded = manifest["policies"][0]["vector_exits"]
        manifest["policies"][0]["vector_exits"] = [(exit + 1) % 3 for exit in recorded]
        (calibrated.path / "manifest.json").write_text(json.dumps(manifest))
        ran = offramp("verify", calibrated.path)
        assert ran.code == 1
        assert "8 images leave elsewhere under policy default" in ran.out
        machine = offramp("verify", calibrated.path, "--json")
        assert machine.code == 1
        assert machine.json["ok"] is False


class TestProfile:
    def test_it_measures_every_stage(self, offramp: Callable[..., Any], bundle: Bundle) -> None:
        ran = offramp("profile", bundle.path, "--runs", "12", "--json")
        assert (ran.code, ran.err) == (0, "")
        assert ran.json["program"] == "litert/float32"
        assert [len(stage["samples_ms"]) for stage in ran.json["stages"]] == [12, 12, 12]
        assert all(0 < stage["median_ms"] <= stage["p90_ms"] for stage in ran.json["stages"])
        assert Bundle.open(bundle.path).manifest.latencies == ()

    def test_saving_replaces_the_measurement_of_this_device(
        self, offramp: Callable[..., Any], bundle: Bundle
    ) -> None:
        for runs in ("5", "7"):
            ran = offramp("profile", bundle.path, "--runs", runs, "--save", "--threads", "2")
            assert ran.code == 0
            assert "median ms" in ran.out
        (entry,) = Bundle.open(bundle.path).manifest.latencies
        assert (entry.program, entry.threads, entry.warmup_runs > 0) == ("litert/float32", 2, True)
        assert [len(samples) for samples in entry.stage_samples_ms] == [7, 7, 7]

    def test_too_few_runs_state_no_percentile(
        self, offramp: Callable[..., Any], bundle: Bundle
    ) -> None:
        ran = offramp("profile", bundle.path, "--runs", "3", "--json")
        assert [stage["p90_ms"] for stage in ran.json["stages"]] == [None, None, None]

    def test_a_zip_cannot_be_saved_to(
        self, offramp: Callable[..., Any], bundle: Bundle, tmp_path: Path
    ) -> None:
        packed = pack_bundle(bundle, tmp_path / "bundle.zip").path
        assert offramp("profile", packed, "--runs", "2").code == 0
        assert offramp("profile", packed, "--runs", "2", "--save").code == 2


class TestBench:
    def test_it_compares_with_running_to_the_last_exit(
        self, offramp: Callable[..., Any], calibrated: Bundle, photos: Path
    ) -> None:
        ran = offramp("bench", calibrated.path, photos, "--json", "--program", "litert/int8")
        assert (ran.code, ran.err) == (0, "")
        (result,) = ran.json
        assert (result["program"], result["policy"], result["images"]) == (
            "litert/int8",
            "default",
            120,
        )
        assert sum(result["exit_shares"]) == pytest.approx(1)
        assert result["last_accuracy"] == pytest.approx(0.9)
        assert result["accuracy"] < 0.9
        assert result["ratio_of_means"] == pytest.approx(
            result["early"]["mean_ms"] / result["last"]["mean_ms"]
        )
        assert 0 < result["last"]["median_ms"] <= result["last"]["p90_ms"]

    def test_a_deadline_and_workers(
        self, offramp: Callable[..., Any], calibrated: Bundle, photos: Path
    ) -> None:
        arguments = ("bench", calibrated.path, photos, "--program", "litert/int8")
        options = ("--workers", "2", "--deadline-ms", "10000")
        (result,) = offramp(*arguments, *options, "--json").json
        assert (result["in_time"], result["cut_short"]) == (1.0, 0.0)
        assert sorted(result["images_per_second"]) == ["1", "2"]
        assert min(result["images_per_second"].values()) > 0
        said = " ".join(offramp(*arguments, *options).out.split())
        assert "litert/int8: 100.0% answered within 10000 ms, 0.0% at an exit" in said
        assert "images/s with 2 workers" in said
        (plain,) = offramp(*arguments, "--json").json
        assert plain["in_time"] is plain["cut_short"] is plain["images_per_second"] is None
        for wrong in ("0", "1e-6"):
            ran = offramp(*arguments, "--deadline-ms", wrong)
            assert (ran.code, ran.out) == (2, "")

    def test_images_without_labels_have_no_accuracy(
        self, offramp: Callable[..., Any], calibrated: Bundle, photos: Path, tmp_path: Path
    ) -> None:
        flat = tmp_path / "flat"
        flat.mkdir()
        for path in list(photos.rglob("*.png"))[:12]:
            path.rename(flat / path.name)
        ran = offramp("bench", calibrated.path, flat, "--json")
        assert [result["accuracy"] for result in ran.json] == [None, None]
        assert "12 images" in offramp("bench", calibrated.path, flat).out

    def test_a_bundle_without_a_policy_says_what_to_run(
        self, offramp: Callable[..., Any], bundle: Bundle, photos: Path
    ) -> None:
        ran = offramp("bench", bundle.path, photos)
        assert ran.code == 2
        assert "offramp calibrate" in ran.err

    def test_an_empty_folder(
        self, offramp: Callable[..., Any], calibrated: Bundle, tmp_path: Path
    ) -> None:
        (tmp_path / "empty").mkdir()
        assert "no images" in offramp("bench", calibrated.path, tmp_path / "empty").err
