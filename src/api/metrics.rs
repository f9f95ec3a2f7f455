//! `GET /metrics`: on the host's socket, and over TCP where the configuration says so. Over TCP nothing else is served,
//! and nobody is asked who they are: what can be read there names sources and volumes, and changes nothing.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::serve;
use crate::metrics::scrape::Scraper;

/// The path.
pub const PATH: &str = "/metrics";
/// Connections at a time: a Prometheus or two, and somebody who looks.
const MOST_CONNECTIONS: usize = 16;
/// A scrape has no body.
const LARGEST_BODY: usize = 1024;
/// How long after the address could not be had it is tried again: another program may let go of it.
const LISTEN_RETRY: Duration = Duration::from_secs(10);

/// Serves the address until it is ended. An address that cannot be had costs the agent nothing but its metrics there.
pub async fn serve(address: SocketAddr, scraper: Scraper) {
    let mut said = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !said => {
                tracing::error!(%address, %error, "no metrics at this address; it is tried again until it can be had");
                said = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(LISTEN_RETRY).await;
    };
    tracing::info!(%address, "metrics are served");
    let route = Router::new()
        .route(PATH, get(answer))
        .fallback(no_such_path)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(scraper);
    serve::accept(listener, MOST_CONNECTIONS, move |_| Some(route.clone())).await;
}

/// The answer to a scrape.
pub async fn answer(State(scraper): State<Scraper>, headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    match scraper.scrape(accept).await {
        Ok((content_type, text)) => ([(CONTENT_TYPE, content_type)], text).into_response(),
        Err(refusal) => serve::refuse(refusal),
    }
}

async fn no_such_path() -> Response {
    (StatusCode::NOT_FOUND, "there is nothing here but /metrics\n").into_response()
}
