//! The Helm chart: rendered by helm, and what comes of it given to the daemon and the Redis that it is for.

mod objects;
pub mod programs;
mod refused;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use serde_json::Value;

/// Reads YAML as Kubernetes does, every document of it.
const TO_JSON: &str = "import json, sys, yaml
json.dump([document for document in yaml.safe_load_all(sys.stdin) if document], sys.stdout)";

/// helm, and a Python that knows YAML.
struct Chart {
    helm: PathBuf,
    python: PathBuf,
}

/// What a chart makes.
struct Objects(Vec<Value>);

/// The Python in which `cargo xtask test` installs what checks the chart; `None` where it did not.
pub fn python() -> Option<PathBuf> {
    tool("python/packaging/bin/python3")
}

/// Every document in `yaml`.
pub fn documents(python: &Path, yaml: &str) -> Vec<Value> {
    let mut reader = Command::new(python);
    reader.args(["-c", TO_JSON]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut reader = reader.spawn().unwrap();
    reader.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
    serde_json::from_slice(&reader.wait_with_output().unwrap().stdout).unwrap()
}

fn tool(name: &str) -> Option<PathBuf> {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    Some(target.join("test-tools").join(name)).filter(|path| path.exists())
}

impl Chart {
    /// `None` where what it takes is not installed, which is said.
    fn find() -> Option<Self> {
        let chart = tool("helm/helm").zip(python()).map(|(helm, python)| Self { helm, python });
        if chart.is_none() {
            eprintln!("SKIPPED: helm is not installed, `cargo xtask test` does it");
        }
        chart
    }

    fn template(&self, release: &str, values: &Value, further: &[&str]) -> Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("values.yaml");
        // JSON is YAML, and its numbers come out of a file as a user's do.
        fs::write(&file, values.to_string()).unwrap();
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/helm/autoweave-usb");
        let mut helm = Command::new(&self.helm);
        helm.arg("template").arg(release).arg(chart).arg("--values").arg(file);
        let output = helm.args(["--namespace", "watch"]).args(further).output().unwrap();
        let [said, wrong] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        if output.status.success() { Ok(said) } else { Err(wrong) }
    }

    fn render(&self, release: &str, values: &Value) -> Objects {
        Objects(documents(&self.python, &self.template(release, values, &[]).unwrap()))
    }
}

impl Objects {
    /// The one of `kind` whose name ends in `suffix`.
    fn get(&self, kind: &str, suffix: &str) -> &Value {
        let is_it = |object: &&Value| object["kind"] == kind && name(object).ends_with(suffix);
        self.0.iter().find(is_it).unwrap_or_else(|| panic!("there is no {kind} …{suffix}"))
    }

    /// What runs pods.
    fn workloads(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(|object| object["spec"]["template"].is_object())
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

fn pod(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]
}

/// The variables of a pod's first container that are given as they are.
fn variables(workload: &Value) -> Vec<(&str, &str)> {
    let variables = pod(workload)["containers"][0]["env"].as_array().unwrap().iter();
    variables.filter_map(|variable| Some((variable["name"].as_str()?, variable["value"].as_str()?))).collect()
}
