//! What is in the rendered objects.

use serde_json::{Value, json};

use super::{Chart, Objects, documents, name, pod, variables};

/// Two release names of the greatest length that helm allows, 53 characters.
const LONGEST: [&str; 2] = [
    "a-release-name-of-fifty-three-characters-and-no-more1",
    "a-release-name-of-fifty-three-characters-and-no-more2",
];

/// All that can be turned on.
fn everything() -> Value {
    json!({
        "devicePlugin": {"enabled": true, "devices": {"autoweave.dev/usb-camera": {"class": 14}}},
        "redis": {"auth": {"enabled": true}},
    })
}

#[test]
fn no_container_has_privileges_that_were_not_asked_for() {
    let Some(chart) = Chart::find() else { return };
    let objects = chart.render("usb", &everything());
    let mut seen = Vec::new();
    for workload in objects.workloads() {
        let pod = pod(workload);
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["enableServiceLinks"], false);
        for key in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod[key].is_null(), "{key} in {}", name(workload));
        }
        for container in
            ["initContainers", "containers"].iter().filter_map(|kind| pod[kind].as_array()).flatten()
        {
            let context = &container["securityContext"];
            assert_ne!(context["privileged"], true, "{container}");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{container}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{container}");
            let user =
                [context, &pod["securityContext"]].iter().find_map(|context| context["runAsUser"].as_u64());
            seen.push((container["name"].as_str().unwrap(), user.unwrap(), &context["capabilities"]["add"]));
            let seccomp =
                [context, &pod["securityContext"]].map(|context| &context["seccompProfile"]["type"]);
            assert!(seccomp.contains(&&json!("RuntimeDefault")), "{container}");
        }
    }
    seen.sort_by_key(|(name, ..)| *name);
    let (none, chown) = (Value::Null, json!(["CHOWN"]));
    let expected = [
        ("device-plugin", 0, &none),
        ("own-state", 0, &chown),
        ("redis", 999, &none),
        ("usb-daemon", 65_532, &none),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn the_longest_release_name_makes_names_that_kubernetes_takes() {
    let Some(chart) = Chart::find() else { return };
    let releases = LONGEST.map(|release| chart.render(release, &everything()));
    // A label of a StatefulSet's pods is its name and 11 more characters, of 63 (kubernetes#64023).
    for object in &releases[0].0 {
        assert!(name(object).len() <= 52, "{}", name(object));
    }
    let [one, another] = releases.map(|objects| name(objects.get("StatefulSet", "-redis")).to_owned());
    assert_ne!(one, another);
}

#[test]
fn secrets_come_in_as_variables_without_being_in_the_pod() {
    let Some(chart) = Chart::find() else { return };
    let token = json!({
        "name": "AUTOWEAVE_USB__MONITORING__TOKEN",
        "valueFrom": {"secretKeyRef": {"name": "usbd", "key": "token"}},
    });
    let objects = chart.render("usb", &json!({"usbDaemon": {"extraEnv": [token]}}));
    let daemon = &pod(objects.get("DaemonSet", "usb"))["containers"][0];
    assert!(daemon["env"].as_array().unwrap().contains(&token));
}

#[test]
fn another_password_restarts_redis() {
    let Some(chart) = Chart::find() else { return };
    let checksum = |password: &str| {
        let objects =
            chart.render("usb", &json!({"redis": {"auth": {"enabled": true, "password": password}}}));
        let template = &objects.get("StatefulSet", "-redis")["spec"]["template"];
        template["metadata"]["annotations"]["checksum/password"].as_str().unwrap().to_owned()
    };
    assert_eq!(checksum("one"), checksum("one"));
    assert_ne!(checksum("one"), checksum("another"));
}

#[test]
fn a_policy_lets_through_what_values_name() {
    let Some(chart) = Chart::find() else { return };
    let collector = json!({"ports": [{"port": 4318}]});
    let monitoring =
        json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}});
    let mut values = everything();
    values["networkPolicy"] = json!({"egress": [collector], "from": [monitoring], "redisFrom": [monitoring]});
    let objects = chart.render("usb", &values);

    let daemon = &objects.get("NetworkPolicy", "usb")["spec"];
    let out = daemon["egress"].as_array().unwrap();
    assert!(out.contains(&collector));
    let dns: Vec<_> = out[0]["ports"].as_array().unwrap().iter().map(|port| port["port"].as_u64()).collect();
    assert_eq!(dns, [Some(53), Some(53), Some(5353), Some(5353)], "OpenShift's DNS listens on 5353");
    assert_eq!(out[1]["ports"], json!([{"port": 6379}]), "not every network knows names of others' ports");
    assert_eq!(daemon["ingress"][0]["from"], json!([monitoring]));

    let redis = &objects.get("NetworkPolicy", "-redis")["spec"];
    assert_eq!(redis["ingress"][0]["from"], json!([{"podSelector": {}}, monitoring]));
    let plugin = &objects.get("NetworkPolicy", "-device-plugin")["spec"];
    assert_eq!((&plugin["ingress"], &plugin["egress"]), (&json!([]), &json!([])));
}

#[test]
fn two_pods_of_a_deployment_keep_apart_whatever_their_affinity() {
    let Some(chart) = Chart::find() else { return };
    let spread = json!({"topologyKey": "zone", "labelSelector": {}});
    let node = json!({"preferredDuringSchedulingIgnoredDuringExecution": []});
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let affinity = json!({"nodeAffinity": node, "podAntiAffinity": {required: [spread]}});
    let objects = chart.render("usb", &json!({"usbDaemon": {"mode": "Deployment", "affinity": affinity}}));
    let affinity = &pod(objects.get("Deployment", "usb"))["affinity"];
    assert_eq!(affinity["nodeAffinity"], node);
    let terms = affinity["podAntiAffinity"][required].as_array().unwrap();
    assert_eq!(terms[0], spread);
    assert_eq!(terms[1]["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(terms[1]["labelSelector"]["matchLabels"]["app.kubernetes.io/component"], "daemon");
}

#[test]
fn the_device_plugin_heeds_what_pods_of_the_daemon_do() {
    let Some(chart) = Chart::find() else { return };
    let node = json!({"preferredDuringSchedulingIgnoredDuringExecution": []});
    let mut values = everything();
    values["devicePlugin"]["priorityClassName"] = json!("");
    values["usbDaemon"] = json!({
        "log": {"level": "debug", "format": "text"},
        "podAnnotations": {"team": "usb"},
        "affinity": {"nodeAffinity": node, "podAntiAffinity": {}},
    });
    let objects = chart.render("usb", &values);
    let plugin = objects.get("DaemonSet", "-device-plugin");
    assert_eq!(plugin["spec"]["template"]["metadata"]["annotations"], json!({"team": "usb"}));
    assert_eq!(pod(plugin)["affinity"], json!({"nodeAffinity": node}));
    assert!(pod(plugin)["priorityClassName"].is_null());
    let log = [("AUTOWEAVE_USB__LOG__LEVEL", "debug"), ("AUTOWEAVE_USB__LOG__FORMAT", "text")];
    assert!(log.iter().all(|variable| variables(plugin).contains(variable)));
}

#[test]
fn prometheus_is_told_of_the_daemons_where_its_operator_is() {
    let Some(chart) = Chart::find() else { return };
    let without = chart.render("usb", &everything());
    assert!(without.0.iter().all(|object| object["kind"] != "ServiceMonitor"));
    let operator = ["--api-versions", "monitoring.coreos.com/v1"];
    for (enabled, kind, arguments) in [(true, true, &[][..]), (false, false, &operator)] {
        let mut values = everything();
        values["monitoring"]["serviceMonitor"]["enabled"] = json!(enabled);
        let objects = Objects(documents(&chart.python, &chart.template("usb", &values, arguments).unwrap()));
        assert_eq!(objects.0.iter().any(|object| object["kind"] == "ServiceMonitor"), kind, "{enabled}");
    }
    let with = Objects(documents(&chart.python, &chart.template("usb", &everything(), &operator).unwrap()));
    let monitor = with.get("ServiceMonitor", "usb");
    let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
    let has =
        |service: &Value| wanted.iter().all(|(key, value)| service["metadata"]["labels"][key] == *value);
    let services = with.0.iter().filter(|object| object["kind"] == "Service");
    let services: Vec<_> = services.filter(|service| has(service)).collect();
    assert_eq!(services.iter().map(|service| name(service)).collect::<Vec<_>>(), ["usb-autoweave-usb"]);
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], services[0]["spec"]["ports"][0]["name"]);
}
