//! The door of konnectivity's protocol: dials, bytes and closes of many streams on one connection, as its clients make
//! them; what breaks the protocol ends its own stream only.

use std::future::poll_fn;
use std::net::TcpListener;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message as _;
use proto::konnectivity::packet::Payload;
use proto::konnectivity::{
    CloseDial, CloseRequest, Data, DialRequest, DialResponse, PROTOCOL_TCP, PROXY_METHOD, Packet,
};
use tokio::net::UnixStream;

use crate::rig::{LIMIT, Rig, echo, kubelet, wait_for};

/// One connection to the door.
struct Connection(SendRequest<Bytes>);

/// One call on it.
struct Call {
    send: SendStream<Bytes>,
    recv: RecvStream,
    came: BytesMut,
}

fn run(test: impl Future<Output = ()>) {
    // The connection moves on while a test waits.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(LIMIT, test).await.expect("in time") });
}

impl Connection {
    async fn open(rig: &Rig) -> Self {
        let socket = UnixStream::connect(rig.path("grpc.sock")).await.expect("the door is open");
        let (requests, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
        tokio::spawn(connection);
        Self(requests)
    }

    async fn call(&self) -> Call {
        let request = Request::post(format!("http://localhost{PROXY_METHOD}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        let mut requests = self.0.clone().ready().await.expect("it stands");
        let (response, send) = requests.send_request(request, false).expect("sent");
        let response = response.await.expect("an answer");
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"application/grpc".parse().expect("a value"))
        );
        Call { send, recv: response.into_body(), came: BytesMut::new() }
    }

    /// A call with a connection to node-1, and the connection's number.
    async fn connected(&self) -> (Call, i64) {
        let mut call = self.call().await;
        let answer = call.dial("node-1:10250").await;
        assert_eq!((answer.error.as_str(), answer.random), ("", 42));
        assert_ne!(answer.connect_id, 0);
        (call, answer.connect_id)
    }
}

impl Call {
    async fn say(&mut self, payload: Payload) {
        let message = Packet::new(payload).encode_to_vec();
        let length = u32::try_from(message.len()).expect("small").to_be_bytes();
        let mut bytes = Bytes::from([&[0][..], &length, &message].concat());
        while !bytes.is_empty() {
            self.send.reserve_capacity(bytes.len());
            if self.send.capacity() == 0 {
                poll_fn(|cx| self.send.poll_capacity(cx)).await.expect("it stands").expect("capacity");
            }
            let part = self.send.capacity().min(bytes.len());
            self.send.send_data(bytes.split_to(part), false).expect("it stands");
        }
    }

    async fn hear(&mut self) -> Option<Payload> {
        loop {
            if let Some((prefix, rest)) = self.came.split_first_chunk::<5>() {
                let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
                let length = usize::try_from(length).expect("64 bits");
                if rest.len() >= length {
                    let message = self.came.split_to(5 + length).split_off(5);
                    return Packet::decode(message.freeze()).expect("a packet").payload;
                }
            }
            let bytes = self.recv.data().await?.expect("no reset");
            self.recv.flow_control().release_capacity(bytes.len()).expect("it stands");
            self.came.extend_from_slice(&bytes);
        }
    }

    async fn dial(&mut self, address: &str) -> DialResponse {
        self.ask(address).await;
        match self.hear().await {
            Some(Payload::DialResponse(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    async fn ask(&mut self, address: &str) {
        let (protocol, address) = (PROTOCOL_TCP.to_owned(), address.to_owned());
        self.say(Payload::DialRequest(DialRequest { protocol, address, random: 42 })).await;
    }

    async fn data(&mut self, connect_id: i64, data: Bytes) {
        self.say(Payload::Data(Data { connect_id, error: String::new(), data })).await;
    }

    /// Bytes of the connection until there are so many.
    async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut read = Vec::new();
        while read.len() < length {
            match self.hear().await {
                Some(Payload::Data(data)) => {
                    assert!(data.data.len() <= 32 * 1024, "{}", data.data.len());
                    read.extend_from_slice(&data.data);
                }
                other => panic!("{other:?} after {} bytes", read.len()),
            }
        }
        read
    }

    async fn exchange(&mut self, connection: i64, line: &'static str) {
        self.data(connection, Bytes::from_static(line.as_bytes())).await;
        assert_eq!(self.read(line.len()).await, line.as_bytes());
    }

    /// gRPC's status and its text; nothing may come before them.
    async fn status(&mut self) -> (String, String) {
        assert_eq!(self.hear().await, None);
        let trailers: HeaderMap = self.recv.trailers().await.expect("no reset").expect("a status");
        let text = |name| trailers.get(name).map_or("", |value| value.to_str().expect("text")).to_owned();
        (text("grpc-status"), text("grpc-message"))
    }
}

#[test]
fn many_calls_on_one_connection_are_connections_of_their_own() {
    let rig = Rig::linked();
    kubelet(&rig, echo);
    run(async {
        let connection = Connection::open(&rig).await;
        let (mut first, one) = connection.connected().await;
        let (mut second, two) = connection.connected().await;
        assert_ne!(one, two);
        first.exchange(one, "one\n").await;
        second.exchange(two, "two\n").await;
        // A close of the client is answered, and the other call goes on.
        first.say(Payload::CloseRequest(CloseRequest { connect_id: one })).await;
        match first.hear().await {
            Some(Payload::CloseResponse(closed)) => {
                assert_eq!((closed.connect_id, closed.error.as_str()), (one, ""))
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(first.status().await.0, "0");
        second.exchange(two, "still there\n").await;
    });
    wait_for("their streams have ended", || {
        (rig.metric("server.sock", "tunnel_streams") == 0.0).then_some(())
    });
}

#[test]
fn a_paste_of_large_messages_arrives_whole_and_a_close_behind_it_cuts_nothing() {
    const PASTED: usize = 20 * 1024 * 1024;
    let rig = Rig::linked();
    let (tell, told) = std::sync::mpsc::channel();
    kubelet(&rig, move |mut stream| {
        let mut bytes = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut bytes);
        let _ = tell.send(bytes);
    });
    let words = (0..PASTED as u64 / 8).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let pasted: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    run(async {
        let connection = Connection::open(&rig).await;
        let (mut call, id) = connection.connected().await;
        // The largest that is allowed, with what stands around it.
        for part in pasted.chunks(4 * 1024 * 1024 - 64) {
            call.data(id, Bytes::copy_from_slice(part)).await;
        }
        call.say(Payload::CloseRequest(CloseRequest { connect_id: id })).await;
        assert!(matches!(call.hear().await, Some(Payload::CloseResponse(_))));
    });
    assert!(told.recv_timeout(LIMIT).expect("it ends") == pasted, "what arrives is what was sent");
}

#[test]
fn the_far_end_closes_and_the_client_has_all_that_it_said() {
    let rig = Rig::linked();
    kubelet(&rig, |mut stream| {
        let _ = std::io::Write::write_all(&mut stream, &vec![b'x'; 1024 * 1024]);
    });
    run(async {
        let connection = Connection::open(&rig).await;
        let (mut call, id) = connection.connected().await;
        assert_eq!(call.read(1024 * 1024).await.len(), 1024 * 1024);
        match call.hear().await {
            Some(Payload::CloseResponse(closed)) => assert_eq!(closed.connect_id, id),
            other => panic!("{other:?}"),
        }
        assert_eq!(call.status().await.0, "0");
    });
}

#[test]
fn refusals_are_the_words_of_the_other_door() {
    let mut rig = Rig::linked();
    run(async {
        let connection = Connection::open(&rig).await;
        for (target, words) in [
            ("node-1:10250", "502 node-1 refused 10250"),
            ("node-1:22", "403 node-1 22 is not allowed; only port 10250 is"),
            ("node-1", "400 a dial needs HOST:PORT"),
        ] {
            let mut call = connection.call().await;
            let answer = call.dial(target).await;
            assert_eq!((answer.error.as_str(), answer.random, answer.connect_id), (words, 42, 0));
            assert_eq!(call.status().await.0, "0");
        }
    });
    rig.agent = None;
    wait_for("the link is gone", || {
        rig.status()["links"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    run(async {
        let answer = Connection::open(&rig).await.call().await.dial("node-1:10250").await;
        assert!(
            answer.error.starts_with("503 no link to node-1 (pool hangzhou, down for "),
            "{}",
            answer.error
        );
    });
}

#[test]
fn what_breaks_the_protocol_ends_its_own_call() {
    let rig = Rig::linked();
    kubelet(&rig, echo);
    run(async {
        let connection = Connection::open(&rig).await;
        let (mut good, id) = connection.connected().await;
        let (mut bad, _) = connection.connected().await;
        // The other call's number is not this one's.
        bad.data(id, Bytes::from_static(b"x")).await;
        assert_eq!(bad.status().await, ("3".to_owned(), format!("connectID {id} is not this stream's")));
        let mut large = connection.call().await;
        large.send.send_data(Bytes::from_static(b"\0\x01\0\0\0"), false).expect("it stands");
        let (status, text) = large.status().await;
        assert_eq!((status.as_str(), text.starts_with("a message of 16777216 bytes")), ("3", true), "{text}");
        good.exchange(id, "others go on\n").await;
    });
    wait_for("the link has no stream left", || {
        (rig.metric("server.sock", "tunnel_streams") == 0.0).then_some(())
    });
}

#[test]
fn a_dial_that_is_given_up_is_taken_back_at_the_edge() {
    let rig = Rig::linked();
    // Its backlog is full: SYNs fall.
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    listener.bind(&rig.kubelet.into()).expect("a loopback address of this test alone");
    listener.listen(0).expect("it listens");
    let listener: TcpListener = listener.into();
    let limit = Duration::from_millis(300);
    let _full: Vec<_> =
        (0..3).filter_map(|_| std::net::TcpStream::connect_timeout(&rig.kubelet, limit).ok()).collect();
    run(async {
        let connection = Connection::open(&rig).await;
        let mut call = connection.call().await;
        call.ask("node-1:10250").await;
        wait_for("the agent dials", || (rig.metric("agent.sock", "tunnel_streams") == 1.0).then_some(()));
        call.say(Payload::CloseDial(CloseDial { random: 42 })).await;
        wait_for("it is given up at both ends", || {
            let given_up = |socket| {
                let (_, text) = rig.ask(socket, "/metrics")?;
                text.lines()
                    .any(|line| line.contains("outcome=\"499\"") && line.ends_with(" 1"))
                    .then_some(())
            };
            given_up("server.sock").and_then(|()| given_up("agent.sock"))
        });
    });
    drop(listener);
}
