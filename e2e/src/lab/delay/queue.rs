//! One NFQUEUE of the kernel, spoken to over its netlink socket (linux/netfilter/nfnetlink_queue.h). Of a packet only its
//! number comes here: the packet itself stays with the kernel until its number is accepted.
//!
//! Plain bytes on a plain socket: there is a crate for this (`nfq`), but its queue has no file descriptor to wait at, and
//! it keeps a buffer for each packet that is held.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};

/// The most packets that the kernel keeps for one queue. What comes while so many are held passes at once: it is
/// neither delayed nor lost.
const LONGEST: u32 = 16_384;

/// The room for the kernel's words about packets that have not been read yet, in bytes.
const SOCKET_BUFFER: usize = 16 << 20;

/// One message of the kernel fits, in bytes: it carries no packet.
const LARGEST_MESSAGE: usize = 16 << 10;

const HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;

/// `NFNL_SUBSYS_QUEUE << 8`.
const SUBSYSTEM: u16 = 3 << 8;
const PACKET: u16 = SUBSYSTEM;
const VERDICT: u16 = SUBSYSTEM | 1;
const CONFIG: u16 = SUBSYSTEM | 2;

const NLMSG_ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;

/// Attributes of a configuration, and what they say here.
const CONFIG_COMMAND: u16 = 1;
const CONFIG_PARAMETERS: u16 = 2;
const CONFIG_LONGEST: u16 = 3;
const CONFIG_MASK: u16 = 4;
const CONFIG_FLAGS: u16 = 5;
const COMMAND_BIND: u8 = 1;
const COPY_NO_PACKET: u8 = 1;
const FAIL_OPEN: u32 = 1;
/// Segments stay together as the link carries them: none is split, and none is counted otherwise.
const WHOLE: u32 = 4;

/// Attributes of a packet's message and of a verdict.
const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
const ACCEPT: u32 = 1;

/// A queue that this process alone empties. When its socket closes, the kernel drops what it still held for it.
#[derive(Debug)]
pub(crate) struct Queue {
    socket: OwnedFd,
    number: u16,
}

impl Queue {
    /// Binds the queue `number` of the network namespace that this thread is in.
    ///
    /// Errors: EBUSY when another process has it.
    pub(crate) fn bind(number: u16) -> io::Result<Queue> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        nix::sys::socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER)?;
        let queue = Queue { socket, number };
        let mut parameters = u32::MAX.to_be_bytes().to_vec();
        parameters.push(COPY_NO_PACKET);
        let flags = FAIL_OPEN | WHOLE;
        queue.send(&message(
            CONFIG,
            REQUEST | ACKNOWLEDGE,
            number,
            &[
                (CONFIG_COMMAND, &[COMMAND_BIND, 0, 0, 0]),
                (CONFIG_PARAMETERS, &parameters),
                (CONFIG_LONGEST, &LONGEST.to_be_bytes()),
                (CONFIG_MASK, &flags.to_be_bytes()),
                (CONFIG_FLAGS, &flags.to_be_bytes()),
            ],
        ))?;
        // The kernel answers within the call that sends. No packet can come first: no rule names the queue yet, and if
        // one does, it passes while nobody is bound.
        let mut answer = [0; LARGEST_MESSAGE];
        let length = recv(queue.socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        match read_messages(&answer[..length]).first() {
            Some(Word::Error(0)) => Ok(queue),
            Some(Word::Error(code)) => Err(io::Error::from_raw_os_error(*code)),
            _ => Err(io::Error::other("the kernel did not answer the bind")),
        }
    }

    /// The numbers of packets that have come since, at most a socket's message of them; empty when there are none.
    pub(crate) fn take(&self) -> io::Result<Vec<u32>> {
        let mut buffer = [0; LARGEST_MESSAGE];
        let length = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => length,
            // ENOBUFS: words about packets found no room, and those packets passed (FAIL_OPEN).
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let packets = read_messages(&buffer[..length]).into_iter().filter_map(|word| match word {
            Word::Packet(number) => Some(number),
            // A verdict that came too late: the kernel has dropped the packet with the device that it came by.
            Word::Error(_) => None,
        });
        Ok(packets.collect())
    }

    /// Lets a packet go on.
    pub(crate) fn accept(&self, packet: u32) -> io::Result<()> {
        let mut verdict = ACCEPT.to_be_bytes().to_vec();
        verdict.extend(packet.to_be_bytes());
        self.send(&message(VERDICT, REQUEST, self.number, &[(VERDICT_HEADER, &verdict)]))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        sendto(self.socket.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What the kernel says in one message.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    /// A packet with this number has come.
    Packet(u32),
    /// A request failed with this errno; 0 is its success.
    Error(i32),
}

fn message(kind: u16, flags: u16, queue: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    // Any address family, version 0.
    bytes.extend([0, 0]);
    bytes.extend(queue.to_be_bytes());
    for (name, value) in attributes {
        let length = u16::try_from(4 + value.len()).expect("attributes here have a few bytes");
        bytes.extend(length.to_ne_bytes());
        bytes.extend(name.to_ne_bytes());
        bytes.extend(*value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(bytes.len()).expect("messages here have a few bytes");
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

fn read_messages(mut bytes: &[u8]) -> Vec<Word> {
    let mut words = Vec::new();
    while let Some(length) = number_at(bytes, 0).filter(|length| (HEADER..=bytes.len()).contains(length)) {
        let (message, rest) = bytes.split_at(length);
        words.extend(read_message(message));
        bytes = rest.get(length.next_multiple_of(4) - length..).unwrap_or_default();
    }
    words
}

fn read_message(message: &[u8]) -> Option<Word> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let body = &message[HEADER..];
    match kind {
        NLMSG_ERROR => {
            let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
            Some(Word::Error(-code))
        }
        PACKET => {
            let header = attribute(body.get(NETFILTER_HEADER..)?, PACKET_HEADER)?;
            Some(Word::Packet(u32::from_be_bytes(header.get(..4)?.try_into().ok()?)))
        }
        _ => None,
    }
}

/// The value of the first attribute `name`.
fn attribute(mut bytes: &[u8], name: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let found = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        if found == name {
            return bytes.get(4..length);
        }
        // An attribute without a length would be read for ever.
        bytes = bytes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn number_at(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_ne_bytes(bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(number: u32) -> Vec<u8> {
        let mut header = number.to_be_bytes().to_vec();
        header.extend([8, 0, 0]);
        message(PACKET, 0, 1, &[(5, &[0; 4]), (PACKET_HEADER, &header), (9, &[1, 2])])
    }

    #[test]
    fn packets_are_read_one_after_another() {
        let bytes = [packet(7), packet(u32::MAX)].concat();
        assert_eq!(read_messages(&bytes), [Word::Packet(7), Word::Packet(u32::MAX)]);
    }

    #[test]
    fn an_error_is_the_errno_and_an_acknowledgement_is_none() {
        let error = |code: i32| {
            let mut bytes = message(NLMSG_ERROR, 0, 0, &[]);
            bytes[HEADER..HEADER + 4].copy_from_slice(&code.to_ne_bytes());
            bytes
        };
        assert_eq!(read_messages(&error(-16)), [Word::Error(16)]);
        assert_eq!(read_messages(&error(0)), [Word::Error(0)]);
    }

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let bytes = message(VERDICT, REQUEST, 0x0102, &[(VERDICT_HEADER, &[0, 0, 0, 1, 0, 0, 0, 9])]);
        assert_eq!(number_at(&bytes, 0), Some(bytes.len()));
        assert_eq!(bytes[16..20], [0, 0, 1, 2]);
        assert_eq!(attribute(&bytes[20..], VERDICT_HEADER), Some(&[0, 0, 0, 1, 0, 0, 0, 9][..]));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            read_messages(&bytes);
        }

        #[test]
        fn a_message_that_is_cut_short_is_no_packet(end in 0_usize..40) {
            let whole = packet(7);
            prop_assert!(end >= whole.len() || read_messages(&whole[..end]).is_empty());
        }
    }
}
