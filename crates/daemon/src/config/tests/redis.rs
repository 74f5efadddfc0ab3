use super::*;

fn redis(text: &str, env: &[(&str, &str)]) -> Redis {
    config(text, env).redis.expect("Redis is configured")
}

fn inline(password: &str) -> Option<Password> {
    Some(Password::Inline(Secret::new(password.to_owned())))
}

#[test]
fn redis_is_there_if_anything_sets_it() {
    assert_eq!(redis("[redis]", &[]).endpoint, tcp("localhost", 6379, false));
    assert_eq!(redis("redis.max_len = 5", &[]).max_len, 5);
    assert_eq!(redis("", &[("REDIS_DB", "2")]).db, 2);
    assert_eq!(redis("", &[("REDIS_PASSWORD", "pw")]).password, inline("pw"));
    assert_eq!(config("", &[("REDIS_HOST", ""), ("REDIS_URL", "")]).redis, None);
}

#[test]
fn the_environment_of_redis_has_its_order() {
    let spec = [("REDIS_HOST", "a"), ("REDIS_PORT", "1"), ("REDIS_DB", "4"), ("REDIS_PASSWORD", "pw")];
    let ours = [("AUTOWEAVE_REDIS_HOST", "b"), ("AUTOWEAVE_REDIS_PORT", "2")];
    let url = [("REDIS_URL", "rediss://c:3")];
    let any = [("AUTOWEAVE_USB__REDIS__HOST", "d")];
    let endpoint = |layers: &[&[(&str, &str)]]| redis("redis.host = 'z'", &layers.concat()).endpoint;
    assert_eq!(endpoint(&[&spec]), tcp("a", 1, false));
    assert_eq!(endpoint(&[&ours, &spec]), tcp("b", 2, false));
    assert_eq!(endpoint(&[&url, &ours, &spec]), tcp("c", 3, true));
    assert_eq!(endpoint(&[&any, &url, &ours, &spec]), tcp("d", 3, true));
    let all = redis("", &[&url[..], &ours, &spec].concat());
    assert_eq!((all.db, all.password), (4, inline("pw")), "the URL names neither");
}

#[test]
fn a_service_link_is_refused_with_the_mend() {
    let mend = "`redis.port`: this is a Kubernetes service link, not a port; set `enableServiceLinks: false` \
                in the pod's spec, or the variable to the port alone, such as 6379";
    for name in ["REDIS_PORT", "AUTOWEAVE_REDIS_PORT"] {
        refused_with("", &[(name, "tcp://10.0.0.1:6379")], &[&format!("{name}: {mend}")]);
    }
}

#[test]
fn urls_are_taken_apart() {
    let cases = [
        ("redis://h", tcp("h", 6379, false), None, None, 9),
        ("redis://h/", tcp("h", 6379, false), None, None, 9),
        ("rediss://u:p%40%2F@h:1/2", tcp("h", 1, true), Some("u"), inline("p@/"), 2),
        ("redis://:p:q@[::1]:7", tcp("::1", 7, false), None, inline("p:q"), 9),
        ("redis://u@[::1]", tcp("::1", 6379, false), Some("u"), None, 9),
        ("unix:///run/r%20s", Endpoint::Unix("/run/r s".into()), None, None, 9),
        ("unix:///r?db=3&user=u&pass=%25", Endpoint::Unix("/r".into()), Some("u"), inline("%"), 3),
    ];
    for (url, endpoint, username, password, db) in cases {
        let found = redis("redis.db = 9", &[("REDIS_URL", url)]);
        let expected =
            Redis { endpoint, username: username.map(str::to_owned), password, db, ..redis("[redis]", &[]) };
        assert_eq!(found, expected, "{url}");
        assert_eq!(redis(&format!("redis.url = '{url}'"), &[]).endpoint, expected.endpoint);
    }
    assert_eq!(redis("redis.host = '/run/r'", &[]).endpoint, Endpoint::Unix("/run/r".into()));
}

#[test]
fn bad_urls_and_hosts_are_refused_without_quoting_them() {
    let bad = [
        "http://u:hunter2@h",
        "hunter2",
        "redis://",
        "redis://u:hunter2@",
        "redis://u:hunter2@h:0",
        "redis://u:hunter2@h:70000",
        "redis://u:hunter2@h:x",
        "redis://u:hunter2@h/x",
        "redis://u:hunter2@h/-1",
        "redis://u:hunter2@[::1",
        "redis://u:hunter2@[::g]",
        "redis://u:hunter2@[::1]x",
        "redis://u:hunter2%@h",
        "redis://u:hunter2%zz@h",
        "redis://u:hunter2%ff@h",
        "redis://u:hunter2%0a@h",
        "redis://u:hunter2@h?x",
        "redis://u:hunter2#@h",
        "redis://u:hunter2/@h",
        "redis://u:hunter2@h h",
        "unix://r?pass=hunter2",
        "unix://",
        "unix:///r?hunter2",
        "redis://h:1:hunter2",
        "redis://u:hunter2@h/2147483648",
    ];
    let hosts = ["redis://u:hunter2@h", "hunter2@h", "h:hunter2", "h hunter2", "h/hunter2", "[::1]"];
    let urls = bad.iter().map(|value| ("url", value));
    for (name, value) in urls.chain(hosts.iter().map(|value| ("host", value))) {
        let error = load_all(&format!("redis.{name} = \"{value}\""), &[], &[]).expect_err(value);
        assert!(error.starts_with(&format!("FILE:1: `redis.{name}`: ")), "{error}");
        assert!(!error.contains("hunter2") && error.lines().count() == 1, "{error}");
    }
    for host in ["::1", "fe80::1%eth0", "10.0.0.1", "redis.example.org"] {
        assert_eq!(redis(&format!("redis.host = '{host}'"), &[]).endpoint, tcp(host, 6379, false));
    }
}

#[test]
fn keys_that_set_the_same_thing_exclude_each_other_in_a_file() {
    refused(
        "[redis]\nurl = 'redis://h'\nhost = 'i'",
        &["FILE:3: `redis.host`: line 2 sets `redis.host` too; keep one of the two"],
    );
    refused(
        "[redis]\npassword = 'a'\npassword_file = 'b'",
        &["FILE:3: `redis.password_file`: line 2 sets `redis.password` too; keep one of the two"],
    );
    refused(
        "[monitoring]\ntoken_file = '/f'\ntoken = 'a'",
        &["FILE:3: `monitoring.token`: line 2 sets `monitoring.token` too; keep one of the two"],
    );
    refused(
        "[redis]\ntls = true\nhost = '/run/redis'",
        &["FILE:2: `redis.tls`: a Unix socket has no TLS; set it to false or name a host"],
    );
    let layered = redis("redis.password_file = '/f'", &[("REDIS_PASSWORD", "pw")]);
    assert_eq!(layered.password, inline("pw"));
    assert_eq!(redis("redis.url = 'rediss://h:1'", &[("REDIS_HOST", "i")]).endpoint, tcp("i", 1, true));
}

#[test]
fn sentinels_and_clusters_are_endpoints() {
    let sentinel = |sentinels: &[(&str, u16)], master: &str, tls| Endpoint::Sentinel {
        sentinels: sentinels.iter().map(|&(host, port)| (host.to_owned(), port)).collect(),
        master: master.to_owned(),
        tls,
    };
    let all = "redis.sentinel = ['a', '[::1]:7', '10.0.0.1:26380']\nredis.tls = true";
    let expected = sentinel(&[("a", 26379), ("::1", 7), ("10.0.0.1", 26380)], "mymaster", true);
    assert_eq!(redis(all, &[]).endpoint, expected);
    let env =
        [("AUTOWEAVE_USB__REDIS__SENTINEL", "a:1, b"), ("AUTOWEAVE_USB__REDIS__SENTINEL_MASTER", "usb")];
    assert_eq!(redis("", &env).endpoint, sentinel(&[("a", 1), ("b", 26379)], "usb", false));
    assert_eq!(redis("redis.sentinel = []", &[]).endpoint, tcp("localhost", 6379, false));
    let cluster = Endpoint::Cluster { host: "n".to_owned(), port: 7000, tls: false };
    assert_eq!(redis("redis.cluster = true\nredis.host = 'n'\nredis.port = 7000", &[]).endpoint, cluster);
    assert_eq!(redis("redis.cluster = true", &[("REDIS_URL", "redis://n:7000")]).endpoint, cluster);
}

#[test]
fn what_contradicts_sentinels_and_clusters_is_refused() {
    let alone = "the sentinels of `redis.sentinel` say where Redis is; keep one of the two";
    let host = format!("`redis.host`: {alone}");
    refused("[redis]\nsentinel = ['a']\nhost = 'h'", &[&format!("FILE:3: {host}")]);
    refused("[redis]\nurl = 'unix:///r'\nsentinel = ['a']", &[&format!("FILE:2: {host}")]);
    refused("[redis]\nsentinel = ['a']\nport = 1", &[&format!("FILE:3: `redis.port`: {alone}")]);
    refused_with("redis.sentinel = ['a']", &[("REDIS_URL", "redis://h")], &[&format!("REDIS_URL: {host}")]);
    refused(
        "[redis]\nsentinel = ['a']\ncluster = true",
        &["FILE:3: `redis.cluster`: a cluster has no sentinels; keep one of the two"],
    );
    refused(
        "[redis]\ncluster = true\nhost = '/run/r'",
        &["FILE:2: `redis.cluster`: a Unix socket leads to no other node; name a host"],
    );
    let too_many = format!("[{}]", ["'a'"; 17].join(", "));
    for bad in ["['redis://u:hunter2@h']", "['h:0']", "['h:x']", "['']", "['::1']", "['/run/s']", &too_many] {
        let message = "FILE:1: `redis.sentinel`: expected a list of at most 16 strings `HOST:PORT`";
        refused(&format!("redis.sentinel = {bad}"), &[message]);
    }
}

#[test]
fn secrets_are_not_shown() {
    let env = [("REDIS_URL", "redis://u:hunter2@h")];
    let loaded = load_all("redis.password = 'hunter2'", &env, &[]).unwrap();
    let Some(Password::Inline(secret)) = &loaded.config.redis.as_ref().unwrap().password else { panic!() };
    assert_eq!(*secret, Secret::new("hunter2".to_owned()));
    assert!(!format!("{loaded:?}").contains("hunter2"));
    for text in [
        "redis.password = hunter2",
        "redis.password = ['hunter2']",
        "redis.password = 'hunter2\n",
        "redis.password = \"hunter2\\q\"",
        "redis.password = \"hunter2\\n\"",
        "redis.port = 'hunter2'",
    ] {
        let error = load_all(text, &[("AUTOWEAVE_USB__REDIS__PASSWRD", "hunter2")], &[]).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
    let long = "x".repeat(4097);
    refused(
        &format!("redis.password = '{long}'"),
        &["FILE:1: `redis.password`: 4097 bytes are too long, expected a string of at most 4096 bytes"],
    );
}
