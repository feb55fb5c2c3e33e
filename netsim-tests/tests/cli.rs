//! The program `knothole` as a person and a script meet it: a server in this process, machines as child processes, all on
//! loopback. The lab's executable plays the program, so that nothing else has to be built.
#![allow(clippy::unwrap_used, clippy::panic)] // also in the helpers, which clippy does not take for tests

#[path = "cli/support.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{World, done_of, event_of, fails, noise, stderr, stdout, wait_until};

#[test]
fn a_script_learns_which_argument_is_wrong() {
    let world = World::start();
    let machine = world.machine("x");
    for (arguments, word) in [
        (&["send", "--json"][..], "<PATH>"),
        (&["up", "--json", "--server"], "--server"),
    ] {
        let output = machine.run(arguments);
        assert_eq!(output.status.code(), Some(2));
        let event = event_of(&output, "error");
        let message = event["message"].as_str().unwrap();
        assert!(message.contains(word) && !message.contains('\n'), "{message:?}");
    }
}

#[test]
fn two_machines_pair_by_a_code_that_works_once() {
    let world = World::start();
    let (desk, nas, third) = (
        world.machine("desk"),
        world.machine("nas"),
        world.machine("third"),
    );
    let mut shows = desk.spawn(&["pair", "--server", &world.url, "--name", "desk", "--json"]);
    let code = shows.wait_for("code")["code"].as_str().unwrap().to_owned();
    let typed = nas.run_with_stdin(
        &["pair", "-", "--server", &world.url, "--name", "nas"],
        &format!("{code}\n"),
    );
    assert_eq!(typed.status.code(), Some(0), "{}", stderr(&typed));
    let paired = shows.wait_for("paired");
    assert_eq!(shows.finish(), 0);
    assert_eq!(paired["name"], "nas");
    let text = stdout(&typed);
    for id in [&paired["id"], &paired["own_id"]] {
        assert!(
            text.contains(id.as_str().unwrap()),
            "both sides show both ids: {text}"
        );
    }
    assert!(stdout(&desk.run(&["peers"])).starts_with("nas "));
    let book = desk.home().join("book.json");
    assert_eq!(fs::metadata(book).unwrap().permissions().mode() & 0o777, 0o600);
    let again = third.run(&["pair", &code, "--server", &world.url, "--name", "third"]);
    fails(&again, 6, &["used before", "new code"]);
    assert_eq!(stdout(&third.run(&["peers"])), "");
}

#[test]
fn a_wrong_code_fails_on_both_sides_and_uses_the_code_up() {
    let world = World::start();
    let (desk, nas) = (world.machine("desk"), world.machine("nas"));
    let mut shows = desk.spawn(&["pair", "--server", &world.url, "--json"]);
    let code = shows.wait_for("code")["code"].as_str().unwrap().to_owned();
    let number = code.split('-').next().unwrap();
    let wrong = nas.run(&["pair", &format!("{number}-zebra-zebra"), "--server", &world.url]);
    fails(&wrong, 6, &["code"]);
    assert_eq!(shows.wait_for("error")["code"], 6);
    assert_eq!(shows.finish(), 6);
    fails(&nas.run(&["pair", &code, "--server", &world.url]), 6, &["new"]);
    for machine in [&desk, &nas] {
        assert_eq!(stdout(&machine.run(&["peers"])), "");
    }
}

#[test]
fn a_petname_of_another_machine_is_refused_before_the_code_is_used() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let mut shows = nas.spawn(&["pair", "--json"]);
    let code = shows.wait_for("code")["code"].as_str().unwrap().to_owned();
    fails(
        &desk.run(&["pair", &code, "--as", "nas"]),
        3,
        &["nas", "knothole forget nas"],
    );
    let third = world.machine("third");
    let ok = third.run(&["pair", &code, "--as", "store", "--server", &world.url]);
    assert_eq!(ok.status.code(), Some(0), "the code still works: {}", stderr(&ok));
    assert!(stdout(&third.run(&["peers"])).starts_with("store "));
}

#[test]
fn who_is_not_admitted_is_told_why() {
    let world = World::start();
    let machine = world.machine("x");
    let (place, token) = world.url.split_once("?token=").unwrap();
    fails(&machine.run(&["pair", "--server", place]), 6, &["token"]);
    fails(
        &machine.run(&["pair", "--server", &format!("{place}?token=rubbish")]),
        6,
        &["token", "operator"],
    );
    assert!(!stderr(&machine.run(&["pair", "--server", &format!("{place}?token=rubbish")])).contains(token));
    let key = place.rsplit('/').next().unwrap();
    let other = world.url.replace(key, &"a".repeat(52));
    fails(&machine.run(&["pair", "--server", &other]), 6, &["another key"]);
    assert!(
        !machine.home().join("book.json").exists(),
        "a server that did not admit is not remembered"
    );
}

#[test]
fn a_name_of_another_key_is_refused_if_chosen_and_completed_if_not() {
    let world = World::start();
    let (_desk, _nas) = world.pair();
    let third = world.machine("third");
    fails(
        &third.run(&["up", "--server", &world.url, "--name", "nas"]),
        3,
        &["--name"],
    );
    // The names of both would be that of this host.
    let (one, two) = (world.machine("one"), world.machine("two"));
    let mut first = one.spawn(&["up", "--server", &world.url, "--json"]);
    let mut second = two.spawn(&["up", "--server", &world.url, "--json"]);
    let name = |event: Value| event["name"].as_str().unwrap().to_owned();
    assert_ne!(
        name(first.wait_for("registered")),
        name(second.wait_for("registered"))
    );
}

#[test]
fn a_ping_shows_round_trip_and_path_and_sums_up() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let _up = nas.up(&[]);
    let output = desk.run(&["ping", "nas", "--until-direct", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let pong = event_of(&output, "pong");
    assert_eq!(pong["schema"], 1);
    assert!(pong["rtt_ms"].as_f64().unwrap() < 5_000.0 && pong["at_ms"].is_u64());
    let summary = event_of(&output, "summary");
    assert!(
        summary["direct_after_ms"].is_u64() && summary["sent"] == summary["received"],
        "{summary}"
    );
    let text = stdout(&desk.run(&["ping", "nas", "--count", "1"]));
    assert!(text.starts_with("nas ") && text.contains(" ms "), "{text}");
}

#[test]
fn a_ping_that_must_stay_relayed_says_why_and_is_exit_code_7_where_direct_was_asked_for() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let _up = nas.up(&[]);
    let output = desk.run(&["ping", "nas", "--until-direct", "--relay", "only", "--json"]);
    fails(&output, 7, &["relay only"]);
    assert_eq!(event_of(&output, "pong")["kind"], "relay");
    assert!(event_of(&output, "summary")["direct_after_ms"].is_null());
    let plain = desk.run(&["ping", "nas", "--count", "1", "--relay", "only"]);
    assert_eq!(plain.status.code(), Some(0));
    assert!(
        stderr(&plain).contains("no direct path: one side asked for the relay only"),
        "{}",
        stderr(&plain)
    );
}

#[test]
fn the_speed_of_both_directions_and_of_the_relay_is_what_arrives_in_a_second() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let _up = nas.up(&[]);
    for (more, direction, kind) in [
        (&[][..], "send", "direct"),
        (&["--reverse", "--streams", "2"], "receive", "direct"),
        (&["--relay", "only"], "send", "relay"),
    ] {
        let output = desk.run(&[&["speed", "nas", "--seconds", "1", "--json"], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let summary = event_of(&output, "summary");
        assert_eq!(summary["direction"], direction);
        assert_eq!(summary["path"]["kind"], kind);
        let number = |name: &str| summary[name].as_f64().unwrap();
        let rate = number("bytes") * 8.0 / number("seconds");
        assert!(number("bytes") > 1e6 && number("seconds") > 0.5, "{summary}");
        assert!((number("bits_per_second") / rate - 1.0).abs() < 0.01, "{summary}");
    }
    let text = stdout(&desk.run(&["speed", "nas", "--seconds", "2"]));
    assert!(text.contains("to nas: ") && text.contains("bit/s"), "{text}");
    assert_eq!(
        desk.run(&["speed", "nas", "--seconds", "0"]).status.code(),
        Some(2)
    );
}

#[test]
fn who_cannot_be_reached_is_exit_code_5_and_the_reason_differs() {
    let world = World::start();
    let (desk, _nas) = world.pair();
    fails(&desk.run(&["ping", "nas"]), 5, &["nas", "knothole up"]);
    fails(
        &desk.run(&["ping", "nobody"]),
        5,
        &["no paired machine is called nobody"],
    );
    let third = world.machine("third");
    let _up = third.up(&["--server", &world.url, "--name", "third"]);
    fails(&desk.run(&["ping", "third"]), 5, &["not paired"]);
    let file = world.file("x", b"x");
    fails(&desk.run(&["send", &file, "--to", "nas"]), 5, &["nas"]);
}

#[test]
fn a_machine_that_is_away_for_a_moment_is_waited_for_and_one_that_is_unknown_is_not() {
    const WAITING: &str = "waiting for it";
    let mut world = World::start();
    let (desk, nas) = world.pair();
    let file = world.file("f", &noise(1_000));
    let send = ["send", &file, "--to", "nas", "--relay", "never", "--json"];
    // It is just being started.
    let mut sends = desk.spawn(&send);
    sends.wait_until_said(WAITING);
    let mut up = nas.up(&["--inbox", &world.path("in")]);
    sends.wait_for("done");
    assert_eq!(sends.finish(), 0);
    // Its server was restarted, and it is not back yet.
    world.stop_server();
    up.wait_for("server-lost");
    world.start_server_again();
    let mut sends = desk.spawn(&send);
    sends.wait_for("done");
    assert_eq!(sends.finish(), 0);
    up.interrupt();
    up.finish();
    // As long as the command may take, and no longer.
    let begun = Instant::now();
    fails(
        &desk.run(&["ping", "nas", "--timeout", "3s"]),
        5,
        &[WAITING, "offline"],
    );
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let unknown = desk.run(&["ping", "nobody"]);
    fails(&unknown, 5, &["no paired machine is called nobody"]);
    assert!(!stderr(&unknown).contains(WAITING), "{}", stderr(&unknown));
}

#[test]
fn a_forgotten_machine_gets_nothing_more() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let _up = nas.up(&[]);
    assert_eq!(desk.run(&["ping", "nas", "--count", "1"]).status.code(), Some(0));
    assert_eq!(nas.run(&["forget", "desk"]).status.code(), Some(0));
    assert_eq!(stdout(&nas.run(&["peers"])), "");
    fails(&desk.run(&["ping", "nas", "--count", "1"]), 5, &["nas"]);
    fails(&nas.run(&["forget", "desk"]), 5, &[]);
}

#[test]
fn a_file_goes_to_whoever_waits_for_it_and_both_sides_end_with_done() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let bytes = noise(5_000_001);
    let file = world.file("photo.raw", &bytes);
    let out = world.path("out");
    let mut waits = nas.spawn(&["recv", "-o", &out, "--json"]);
    waits.wait_for("registered");
    let sent = desk.run(&["send", &file, "--to", "nas", "--json"]);
    assert_eq!(sent.status.code(), Some(0), "{}", stderr(&sent));
    let received = waits.wait_for("done");
    assert_eq!(waits.finish(), 0);
    for done in [&done_of(&sent), &received] {
        assert_eq!(
            (done["bytes"].as_u64(), done["verified"].as_bool()),
            (Some(5_000_001), Some(true))
        );
        assert_eq!(done["blake3"], blake3::hash(&bytes).to_hex().as_str());
        assert!(["direct", "relay"].contains(&done["path"]["kind"].as_str().unwrap()));
        assert!(done["seconds"].is_f64() && done["resumed_bytes"].is_u64());
    }
    assert!(received["file"].as_str().unwrap().ends_with("/out/photo.raw"));
    assert!(fs::read(world.path("out/photo.raw")).unwrap() == bytes);
}

#[test]
fn folders_empty_files_and_ten_thousand_small_files_arrive_at_who_is_up() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let tree = world.path("tree");
    for n in 0..10_000_u32 {
        let folder = format!("{tree}/{}", n % 10);
        fs::create_dir_all(&folder).unwrap();
        fs::write(format!("{folder}/{n}"), n.to_string().repeat(n as usize % 50)).unwrap();
    }
    fs::create_dir_all(format!("{tree}/empty folder")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", format!("{tree}/link")).unwrap();
    let _up = nas.up(&["--inbox", &world.path("in")]);
    let sent = desk.run(&["send", &tree, "--to", "nas", "--json"]);
    assert_eq!(sent.status.code(), Some(0), "{}", stderr(&sent));
    assert!(
        stderr(&sent).contains("link: it is a symbolic link that leads out"),
        "{}",
        stderr(&sent)
    );
    assert_eq!(done_of(&sent)["files"], 10_000);
    for n in (0..10_000_u32).step_by(501) {
        let name = format!("{}/{n}", n % 10);
        assert_eq!(
            fs::read(format!("{tree}/{name}")).unwrap(),
            fs::read(world.path(&format!("in/tree/{name}"))).unwrap()
        );
    }
    assert_eq!(fs::metadata(world.path("in/tree/0/0")).unwrap().len(), 0);
    assert!(fs::metadata(world.path("in/tree/empty folder")).unwrap().is_dir());
    assert!(!fs::exists(world.path("in/tree/link")).unwrap());
    let mut names: Vec<_> = fs::read_dir(world.path("in/tree/7"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names.len(), 1000);
}

#[test]
fn nothing_is_overwritten_unless_asked_for() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let file = world.file("a.txt", b"new");
    let out = world.path("out");
    fs::create_dir(&out).unwrap();
    let read = |name: &str| fs::read_to_string(world.path(&format!("out/{name}"))).unwrap_or_default();
    let turn = |conflict: &str| {
        fs::write(world.path("out/a.txt"), "old").unwrap();
        let mut waits = nas.spawn(&["recv", "-o", &out, "--conflict", conflict, "--json"]);
        waits.wait_for("registered");
        let sent = desk.run(&["send", &file, "--to", "nas", "--json"]);
        assert_eq!(
            (sent.status.code(), waits.finish()),
            (Some(0), 0),
            "{}",
            stderr(&sent)
        );
        done_of(&sent)["files"].as_u64().unwrap()
    };
    assert_eq!(turn("rename"), 1);
    assert_eq!(
        (read("a.txt"), read("a (1).txt")),
        ("old".to_owned(), "new".to_owned())
    );
    assert_eq!(turn("skip"), 0);
    assert_eq!(read("a.txt"), "old");
    assert_eq!(turn("overwrite"), 1);
    assert_eq!(read("a.txt"), "new");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 2);
}

#[test]
fn a_person_at_the_terminal_is_asked_and_can_say_no() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let file = world.file("a.txt", b"new");
    let inbox = nas.home().join("inbox");
    let mut up = nas.up_at_terminal();
    for (answer, code) in [("n\n", 9), ("y\n", 0)] {
        let mut sends = desk.spawn(&["send", &file, "--to", "nas", "--json"]);
        up.wait_for("offer");
        up.type_in(answer);
        assert_eq!(sends.finish(), code, "{answer}");
        if code == 9 {
            assert_eq!(sends.last_error()["code"], 9);
        }
        assert_eq!(inbox.join("a.txt").exists(), code == 0);
    }
}

#[test]
fn ctrl_c_answers_an_open_question_with_no() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let file = world.file("a.txt", b"new");
    let mut up = nas.up_at_terminal();
    let mut sends = desk.spawn(&["send", &file, "--to", "nas", "--json"]);
    up.wait_for("offer");
    up.interrupt();
    assert_eq!((sends.finish(), up.finish()), (9, 0));
    assert!(!nas.home().join("inbox/a.txt").exists());
}

#[test]
fn a_full_disk_is_told_to_both_sides_and_up_serves_on() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let file = world.file("big", &noise(20_000_000));
    let inbox = world.path("small disk");
    fs::create_dir(&inbox).unwrap();
    let Some(mut up) = nas.up_on_small_disk(&inbox) else {
        eprintln!(
            "skipped: `unshare --mount --map-root-user` is not allowed here; run as root, or allow user namespaces"
        );
        return;
    };
    let sent = desk.run(&["send", &file, "--to", "nas", "--json"]);
    fails(&sent, 10, &["disk is full", "free space"]);
    assert!(
        up.look_into(&inbox).join(".knothole-partial").exists(),
        "what came is kept"
    );
    assert!(!up.look_into(&inbox).join("big").exists());
    let ping = desk.run(&["ping", "nas", "--count", "1"]);
    assert_eq!(ping.status.code(), Some(0), "{}", stderr(&ping));
    up.interrupt();
    assert_eq!(up.finish(), 0);
    assert!(up.talk().contains("disk is full"), "{}", up.talk());

    let mut recv = nas.recv_on_small_disk(&inbox).unwrap();
    recv.wait_for("registered");
    fails(&desk.run(&["send", &file, "--to", "nas"]), 10, &["disk is full"]);
    assert_eq!(recv.finish(), 10);
}

#[test]
fn ctrl_c_ends_a_transfer_cleanly_on_either_side() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let file = world.file("big", &noise(300_000_000));
    let mut up = nas.up(&["--inbox", &world.path("in")]);
    let mut sends = desk.spawn(&["send", &file, "--to", "nas", "--json"]);
    sends.wait_for("transfer");
    sends.interrupt();
    assert_eq!(sends.finish(), 10);
    up.wait_for("disconnected");
    assert!(
        fs::exists(world.path("in/.knothole-partial")).unwrap() && !fs::exists(world.path("in/big")).unwrap()
    );
    assert_eq!(
        desk.run(&["ping", "nas", "--count", "1"]).status.code(),
        Some(0),
        "up serves on"
    );

    let mut sends = desk.spawn(&["send", &file, "--to", "nas", "--json"]);
    sends.wait_for("transfer");
    up.interrupt();
    assert_eq!((sends.finish(), up.finish()), (10, 0));
    assert!(!nas.home().join("up.sock").exists());
}

#[test]
fn an_answer_is_for_the_offer_that_was_shown_last_and_for_none_that_is_gone() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let lap = world.machine("lap");
    world.introduce(&lap, "lap", &nas, "nas");
    let (first, second) = (world.file("first", b"1"), world.file("second", b"2"));
    let out = world.path("out");
    let mut asks = nas.spawn_at_terminal(&["recv", "-o", &out, "--json"]);
    asks.wait_for("registered");
    let mut gone = desk.spawn(&["send", &first, "--to", "nas", "--json"]);
    asks.wait_for("offer");
    // Half an answer, and the sender is gone.
    asks.type_in("y");
    gone.interrupt();
    gone.finish();
    assert_eq!(asks.wait_for("withdrawn")["peer"], "desk");
    let mut sends = lap.spawn(&["send", &second, "--to", "nas", "--json"]);
    asks.wait_for("offer");
    // A person reads before answering.
    asks.wait_until_said("take it from lap");
    asks.type_in("\n");
    assert_eq!(sends.finish(), 9, "{}", asks.talk());
    let mut sends = lap.spawn(&["send", &second, "--to", "nas", "--json"]);
    asks.wait_for("offer");
    asks.type_in("y\n");
    assert_eq!((sends.finish(), asks.finish()), (0, 0), "{}", asks.talk());
    assert_eq!(fs::read(world.path("out/second")).unwrap(), b"2");
    assert!(!fs::exists(world.path("out/first")).unwrap());
}

#[test]
fn the_timeout_is_also_for_the_person_who_must_say_yes() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let (file, out) = (world.file("a.txt", b"new"), world.path("out"));
    let mut asks = nas.spawn_at_terminal(&["recv", "-o", &out, "--timeout", "40s", "--json"]);
    asks.wait_for("registered");
    let mut sends = desk.spawn(&["send", &file, "--to", "nas", "--json"]);
    asks.wait_for("offer");
    assert_eq!((sends.finish(), asks.finish()), (9, 8), "{}", asks.talk());
}

#[test]
fn recv_waits_for_a_sender_that_was_away_and_goes_on_with_it_alone() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let lap = world.machine("lap");
    world.introduce(&lap, "lap", &nas, "nas");
    let (file, other) = (world.file("big", &noise(20_000_000)), world.file("other", b"x"));
    let out = world.path("out");
    let mut waits = nas.spawn(&["recv", "-o", &out, "--yes", "--limit", "4MB/s", "--json"]);
    waits.wait_for("registered");
    let mut sends = desk.spawn(&["send", &file, "--to", "nas", "--json"]);
    waits.wait_for("accepted");
    // Whether or not it has heard by then that it was accepted.
    sends.freeze();
    let lost = waits.wait_for("lost");
    let number = |field: &str| lost[field].as_u64();
    assert_eq!((number("stored"), number("files")), (Some(0), Some(1)), "{lost}");
    assert_eq!(lost["peer"], "desk");
    waits.wait_until_said("desk: connection lost; waiting");
    fails(
        &lap.run(&["send", &other, "--to", "nas"]),
        9,
        &["declined", "busy"],
    );
    sends.thaw();
    waits.wait_for("accepted");
    waits.wait_for("done");
    assert_eq!((sends.finish(), waits.finish()), (0, 0), "{}", waits.talk());
    assert_eq!((waits.count("done"), waits.count("error")), (1, 0));
    assert!(fs::read(world.path("out/big")).unwrap() == fs::read(file).unwrap());
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn ctrl_c_while_a_lost_sender_is_waited_for_keeps_what_is_there() {
    let world = World::start();
    let (desk, lap) = (world.machine("desk"), world.machine("lap"));
    let (file, out) = (world.file("big", &noise(20_000_000)), world.path("out"));
    let mut sends = desk.spawn(&["send", &file, "--server", &world.url, "--json"]);
    let code = sends.wait_for("code")["code"].as_str().unwrap().to_owned();
    let args = ["recv", &code, "-o", &out, "--server", &world.url, "--yes"];
    let mut waits = lap.spawn(&[&args[..], &["--limit", "4MB/s", "--json"]].concat());
    waits.wait_for("accepted");
    sends.kill();
    waits.wait_for("lost");
    waits.interrupt();
    assert_eq!(waits.finish(), 10, "{}", waits.talk());
    assert_eq!(waits.last_error()["code"], 10);
    assert!(fs::exists(world.path("out/.knothole-partial")).unwrap());
}

#[test]
fn a_sender_that_stops_by_itself_is_not_waited_for() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let (file, out) = (world.file("big", &noise(20_000_000)), world.path("out"));
    let mut waits = nas.spawn(&["recv", "-o", &out, "--yes", "--limit", "4MB/s", "--json"]);
    waits.wait_for("registered");
    let mut sends = desk.spawn(&["send", &file, "--to", "nas", "--json"]);
    waits.wait_for("accepted");
    sends.interrupt();
    assert_eq!((sends.finish(), waits.finish()), (10, 10), "{}", waits.talk());
    assert_eq!(waits.count("lost"), 0);
}

#[test]
fn the_receiver_of_a_large_file_keeps_little_in_memory() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let file = world.file("big", &noise(400_000_000));
    let up = nas.up(&["--inbox", &world.path("in")]);
    let sent = desk.run(&["send", &file, "--to", "nas"]);
    assert_eq!(sent.status.code(), Some(0), "{}", stderr(&sent));
    let peak = up.peak_memory();
    assert!(peak < 100_000_000, "{peak} bytes");
    assert!(fs::read(world.path("in/big")).unwrap() == fs::read(file).unwrap());
}

#[test]
fn two_machines_can_send_to_one_at_once() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let lap = world.machine("lap");
    world.introduce(&lap, "lap", &nas, "nas");
    let _up = nas.up(&["--inbox", &world.path("in")]);
    let files = ["one", "two"].map(|name| world.file(name, &noise(30_000_000)));
    let mut one = desk.spawn(&["send", &files[0], "--to", "nas", "--json"]);
    let mut two = lap.spawn(&["send", &files[1], "--to", "nas", "--json"]);
    assert_eq!((one.finish(), two.finish()), (0, 0));
    for name in ["one", "two"] {
        assert!(fs::read(world.path(&format!("in/{name}"))).unwrap() == fs::read(world.path(name)).unwrap());
    }
}

#[test]
fn status_tells_what_up_is_doing_and_one_up_is_enough() {
    let world = World::start();
    let (desk, nas) = world.pair();
    let mut up = nas.up(&[]);
    let status = event_of(&nas.run(&["status", "--json"]), "status");
    assert_eq!(
        (status["running"].as_bool(), status["connected"].as_bool()),
        (Some(true), Some(true))
    );
    assert_eq!(status["registered"]["name"], "nas");
    fails(&nas.run(&["up"]), 1, &["runs already"]);
    let mut ping = desk.spawn(&["ping", "nas", "--count", "100", "--json"]);
    ping.wait_for("pong");
    let links = event_of(&nas.run(&["status", "--json"]), "status")["links"].clone();
    assert_eq!(links[0]["peer"], "desk", "{links}");
    let text = stdout(&nas.run(&["status"]));
    assert!(
        text.contains("nas") && text.contains("link            desk"),
        "{text}"
    );
    ping.interrupt();
    assert_eq!(ping.finish(), 0);
    up.kill();
    assert!(
        stdout(&nas.run(&["status"])).contains("does not run"),
        "a stale socket is no running up"
    );
    let _again = nas.up(&[]);
    assert_eq!(
        event_of(&nas.run(&["status", "--json"]), "status")["running"],
        true
    );
}

#[test]
fn waiting_ends_with_the_timeout_and_with_ctrl_c() {
    let world = World::start();
    let (_desk, nas) = world.pair();
    fails(&nas.run(&["recv", "--timeout", "1s"]), 8, &["transfer"]);
    let mut waits = nas.spawn(&["recv", "--json"]);
    waits.wait_for("registered");
    waits.interrupt();
    assert_eq!(waits.finish(), 130);
    let mut shows = nas.spawn(&["pair", "--timeout", "1500ms", "--json"]);
    shows.wait_for("code");
    assert_eq!(shows.finish(), 8);
}

#[test]
fn ctrl_c_ends_a_command_that_reads_stdin_and_leaves_no_file() {
    let world = World::start();
    let (desk, _nas) = world.pair();
    let scratch = world.path("scratch");
    fs::create_dir(&scratch).unwrap();
    let left = || fs::read_dir(&scratch).unwrap().count();
    let mut sends = desk.spawn_at_open_pipe(&["send", "-", "--to", "nas", "--json"], &scratch);
    wait_until("it keeps what comes", || left() == 1);
    sends.interrupt();
    assert_eq!(sends.finish(), 130, "{}", sends.talk());
    assert_eq!(left(), 0);
    for args in [
        ["recv", "-", "--yes", "--json"],
        ["pair", "-", "--as", "other"],
        ["ping", "nas", "--server", "-"],
    ] {
        let mut reads = desk.spawn_at_open_pipe(&args, &scratch);
        wait_until("it hears Ctrl-C", || reads.hears_ctrl_c());
        reads.interrupt();
        assert_eq!(reads.finish(), 130, "{args:?}: {}", reads.talk());
    }
}

#[test]
fn netcheck_reads_its_server_from_stdin_once() {
    let world = World::start();
    let desk = world.machine("desk");
    let scratch = world.path("scratch");
    fs::create_dir(&scratch).unwrap();
    let mut checks = desk.spawn_at_open_pipe(&["netcheck", "--server", "-", "--json"], &scratch);
    checks.pipe_in(&format!("{}\n", world.url));
    // The pipe stays open: a second read would wait for ever.
    assert_eq!(checks.finish(), 0, "{}", checks.talk());
}

#[test]
fn up_says_when_the_server_goes_away_and_comes_back_by_itself() {
    let mut world = World::start();
    let (_desk, nas) = world.pair();
    let mut up = nas.up(&[]);
    world.stop_server();
    up.wait_for("server-lost");
    assert_eq!(
        event_of(&nas.run(&["status", "--json"]), "status")["connected"],
        false
    );
    world.start_server_again();
    up.wait_for("registered");
    assert_eq!(
        event_of(&nas.run(&["status", "--json"]), "status")["connected"],
        true
    );
}
