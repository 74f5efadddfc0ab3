use std::process::Command;

use tempfile::TempDir;

use super::*;

const MANIFEST: &str =
    r#"{"name": "abc", "version": "1.0.0", "entry": "bin/run", "permissions": {}, "hooks": {"onLoad": "x"}}"#;

fn package() -> TempDir {
    let package = TempDir::new().unwrap();
    fs::create_dir(package.path().join("bin")).unwrap();
    fs::write(package.path().join("bin/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(package.path().join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(package.path().join(manifest::FILE_NAME), MANIFEST).unwrap();
    package
}

fn sign(package: &Path, digits: &str) {
    let signature = format!(r#""signature": {{"algorithm": "SHA-256", "value": "{digits}"}}, "hooks""#);
    fs::write(package.join(manifest::FILE_NAME), MANIFEST.replace("\"hooks\"", &signature)).unwrap();
}

fn fault(package: &Path) -> String {
    Package::check(package, false).unwrap_err().to_string()
}

#[test]
fn a_signed_package_is_what_it_was_when_it_was_signed() {
    let package = package();
    let path = package.path();
    assert!(matches!(Package::check(path, true), Err(PackageFault::Unsigned(_))));
    sign(path, &"0".repeat(64));
    let Err(PackageFault::Signature { actual, .. }) = Package::check(path, false) else { panic!() };
    sign(path, &actual.to_uppercase());
    assert_eq!(Package::check(path, true).unwrap().digest, actual);
    let changes: [fn(&Path); 5] = [
        |path| fs::write(path.join("bin/run"), "#!/bin/sh\n ").unwrap(),
        |path| fs::write(path.join("bin/more"), "").unwrap(),
        |path| fs::rename(path.join("bin/run"), path.join("run")).unwrap(),
        |path| fs::set_permissions(path.join("bin/run"), fs::Permissions::from_mode(0o644)).unwrap(),
        |path| symlink("run", path.join("bin/link")).unwrap(),
    ];
    for change in changes {
        let package = self::package();
        sign(package.path(), &actual);
        assert!(Package::check(package.path(), true).is_ok());
        change(package.path());
        assert!(Package::check(package.path(), true).is_err());
    }
}

/// The form is written down for others to compute: here `sh` does.
#[test]
fn the_digest_is_the_documented_one() {
    let package = package();
    sign(package.path(), &"0".repeat(64));
    symlink("run", package.path().join("bin/link")).unwrap();
    let script = r#"
        m=autoweave.plugin.json
        { printf 'autoweave-plugin-1\n'
          printf 'f %d %d\n%s' ${#m} $(wc -c <$m) $m; cat $m
          printf 'l 8 3\nbin/linkrun'
          printf 'x 7 %d\nbin/run' $(wc -c <bin/run); cat bin/run
        } | sha256sum"#;
    let output = Command::new("sh").args(["-c", script]).current_dir(package.path()).output().unwrap();
    let expected = String::from_utf8(output.stdout).unwrap();
    let Err(PackageFault::Signature { actual, .. }) = Package::check(package.path(), false) else { panic!() };
    assert_eq!(expected.split(' ').next().unwrap(), actual);
}

#[test]
fn a_staged_package_is_a_copy() {
    let (package, store) = (package(), TempDir::new().unwrap());
    symlink("run", package.path().join("bin/link")).unwrap();
    let staged = Package::stage(package.path(), store.path(), false).unwrap();
    assert_eq!(staged, Package::stage(package.path(), store.path(), false).unwrap());
    fs::write(package.path().join("bin/run"), "changed").unwrap();
    let updated = Package::stage(package.path(), store.path(), false).unwrap();
    assert_ne!(staged.root, updated.root);
    assert_eq!(fs::read_to_string(staged.root.join("bin/link")).unwrap(), "#!/bin/sh\n");
    assert_eq!(fs::read_to_string(updated.root.join("bin/link")).unwrap(), "changed");
    assert_eq!(fs::metadata(staged.root.join("bin")).unwrap().mode() & 0o777, 0o755);
    fs::remove_file(package.path().join("bin/run")).unwrap();
    assert!(Package::stage(package.path(), store.path(), false).is_err());
    assert_eq!(fs::read_dir(store.path()).unwrap().count(), 2, "nothing of a bad package stays");
}

#[test]
fn what_is_no_package_is_told_with_the_mend() {
    let package = package();
    let path = package.path();
    fs::set_permissions(path.join("bin/run"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(
        fault(path).ends_with(
            "bin/run: the entry is not executable: chmod +x it, or let it end in .js, .mjs or .py"
        )
    );
    fs::remove_file(path.join("bin/run")).unwrap();
    assert!(fault(path).contains("name a file of the package"), "{}", fault(path));
    symlink("/bin/sh", path.join("bin/run")).unwrap();
    assert!(fault(path).contains("links out of the package, to /bin/sh"), "{}", fault(path));
    fs::remove_file(path.join("bin/run")).unwrap();
    // By their names alone these links stay inside.
    symlink("deep/down", path.join("bin/run")).unwrap();
    fs::create_dir_all(path.join("bin/deep")).unwrap();
    symlink("../../bin", path.join("bin/deep/up")).unwrap();
    symlink("up/../../out", path.join("bin/deep/down")).unwrap();
    assert!(fault(path).contains("bin/run: the entry"), "{}", fault(path));
    fs::write(path.join(manifest::FILE_NAME), "{\n \"name\": 1\n}").unwrap();
    let said = fault(path);
    assert!(
        said.lines().count() > 3 && said.contains("autoweave.plugin.json:2: name: is no string"),
        "{said}"
    );
    fs::remove_file(path.join(manifest::FILE_NAME)).unwrap();
    assert!(fault(path).contains("there is none"));
    nix::unistd::mkfifo(&path.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(fault(path).contains("neither file, directory nor link"));
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(fault(path).contains("chmod o-w"));
}

#[test]
fn nothing_in_a_package_may_be_written_by_others() {
    for (part, mode) in [("bin/run", 0o757), ("bin", 0o777), ("autoweave.plugin.json", 0o646)] {
        let package = package();
        let part = package.path().join(part);
        fs::set_permissions(&part, fs::Permissions::from_mode(mode)).unwrap();
        let expected = format!("{}: others may write it, and so decide what runs: chmod o-w", part.display());
        assert_eq!(fault(package.path()), expected);
    }
}

#[test]
fn a_change_shows_without_reading() {
    let package = package();
    let before = fingerprint(package.path()).unwrap();
    assert_eq!(before, fingerprint(package.path()).unwrap());
    fs::write(package.path().join("bin/new"), "").unwrap();
    assert_ne!(before, fingerprint(package.path()).unwrap());
}
