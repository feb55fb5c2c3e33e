//! Ctrl-C: the first stops cleanly, the second at once.

use std::io;

use knothole_netsim::demo::Stop;

/// Raise `stop` at the first SIGINT or SIGTERM; leave the process at the second.
pub(crate) fn raise_on_interrupt(stop: Stop) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let Ok(mut term) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                else {
                    return;
                };
                for round in 0..2 {
                    tokio::select! {
                        heard = tokio::signal::ctrl_c() => if heard.is_err() { return },
                        _ = term.recv() => {}
                    }
                    stop.raise();
                    if round == 1 {
                        std::process::exit(130);
                    }
                }
            });
        })?;
    Ok(())
}
