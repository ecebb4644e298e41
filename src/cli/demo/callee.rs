//! The callee: a small SIP user agent server that rings, answers, and lets the caller hang up.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::spawn_local;

use super::message::answer;
use crate::node::clock;
use crate::sip::stream::{Frame, StreamFramer};
use crate::sip::{Framing, Index, Limits, Message, Transport, parse};

/// Answers what comes until it is dropped. Needs a `LocalSet`.
pub async fn serve(udp: UdpSocket, tcp: TcpListener, tag: String) -> io::Result<()> {
    let (udp_address, tcp_address) = (udp.local_addr()?, tcp.local_addr()?);
    let tcp_agent = Rc::new(Agent { address: tcp_address, transport: Transport::Tcp, tag: tag.clone() });
    spawn_local(async move {
        while let Ok((stream, _)) = tcp.accept().await {
            let agent = Rc::clone(&tcp_agent);
            spawn_local(async move { agent.serve_connection(stream).await });
        }
    });
    let agent = Agent { address: udp_address, transport: Transport::Udp, tag };
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, edge) = udp.recv_from(&mut buffer).await?;
        for answer in agent.answers(&buffer[..length], Framing::Datagram) {
            udp.send_to(&answer, edge).await?;
        }
    }
}

struct Agent {
    address: SocketAddr,
    transport: Transport,
    tag: String,
}

impl Agent {
    async fn serve_connection(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut framer = StreamFramer::new();
        let mut buffer = [0; 16_384];
        loop {
            let length = stream.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            framer.push(&buffer[..length], clock::instant());
            while let Ok(Some(Frame::Message(range))) = framer.next(&Limits::default()) {
                for answer in self.answers(&framer.bytes()[range], Framing::Stream) {
                    stream.write_all(&answer).await?;
                }
            }
        }
    }

    /// What is said to one message: 180 and 200 to INVITE, 200 to BYE, nothing to ACK. The tag stays the same, so a request that comes
    /// twice gets the same answer.
    fn answers(&self, octets: &[u8], framing: Framing) -> Vec<Vec<u8>> {
        let mut index = Index::new();
        let Ok(request) = parse(octets, &mut index, framing, &Limits::default()) else { return Vec::new() };
        let all: &[(u16, &str)] = match request.method().map(|method| method.as_bytes()) {
            Some(b"INVITE") => &[(180, "Ringing"), (200, "OK")],
            Some(b"BYE") => &[(200, "OK")],
            Some(b"ACK") | None => &[],
            Some(_) => &[(501, "Not Implemented")],
        };
        all.iter().map(|(status, phrase)| self.answer(request, *status, phrase)).collect()
    }

    fn answer(&self, request: Message<'_>, status: u16, phrase: &str) -> Vec<u8> {
        let transport = if self.transport == Transport::Tcp { ";transport=tcp" } else { "" };
        answer(request, status, phrase, &format!("sip:callee@{}{transport}", self.address), &self.tag)
    }
}
