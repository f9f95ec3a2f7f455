//! The older text format, for what does not ask for OpenMetrics.
//!
//! Both formats share their samples. In OpenMetrics a family's name lacks the `_total` of its counters and the `_info` of
//! its infos, there are units, and an end; a reader of the older format takes a counter so named for untyped.
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::Write as _;

/// The format's content type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// OpenMetrics' content type.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether an `Accept` header wants OpenMetrics.
pub fn wants_open_metrics(accept: Option<&str>) -> bool {
    accept.is_some_and(|accept| {
        accept.split(',').any(|kind| kind.trim_start().starts_with("application/openmetrics-text"))
    })
}

/// From OpenMetrics to the older format.
pub fn from_open_metrics(text: &str) -> String {
    let mut older = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(said) = line.strip_prefix("# HELP ") {
            help = said.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|said| said.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            // Writing to a string cannot fail.
            if let Some((_, help)) = help.take() {
                let _ = writeln!(older, "# HELP {name}{suffix} {help}");
            }
            let _ = writeln!(older, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with("# ") {
            older.push_str(line);
            older.push('\n');
        }
    }
    older
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_as_their_samples() {
        let text = "# HELP a_faults Found.\n# TYPE a_faults counter\na_faults_total{x=\"y\"} 1\n\
                    # HELP a_build Version.\n# TYPE a_build info\na_build_info{v=\"1\"} 1\n\
                    # HELP a_t_seconds Time.\n# TYPE a_t_seconds gauge\n# UNIT a_t_seconds seconds\na_t_seconds 1.5\n# EOF\n";
        assert_eq!(
            from_open_metrics(text),
            "# HELP a_faults_total Found.\n# TYPE a_faults_total counter\na_faults_total{x=\"y\"} 1\n\
             # HELP a_build_info Version.\n# TYPE a_build_info gauge\na_build_info{v=\"1\"} 1\n\
             # HELP a_t_seconds Time.\n# TYPE a_t_seconds gauge\na_t_seconds 1.5\n"
        );
    }

    #[test]
    fn open_metrics_is_for_who_asks_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert!(wants_open_metrics(Some(prometheus)));
        assert!(!wants_open_metrics(Some("*/*")));
        assert!(!wants_open_metrics(None));
    }
}
