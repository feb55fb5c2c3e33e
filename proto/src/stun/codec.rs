//! Binding messages to bytes and back: the only file that names the library.

use std::net::SocketAddr;

use stun_rs::attributes::StunAttribute;
use stun_rs::attributes::discovery::{
    ChangeRequest, ChangeRequestFlags, OtherAddress, Padding, ResponseOrigin,
};
use stun_rs::attributes::stun::{ErrorCode, Fingerprint, UnknownAttributes, XorMappedAddress};
use stun_rs::methods::BINDING;
use stun_rs::{
    MessageClass, MessageDecoder, MessageEncoder, StunMessage, StunMessageBuilder, get_input_text,
};

use crate::addr::canonical;

/// The number by which an answer finds its request (RFC 8489 section 5).
pub(super) type Id = [u8; 12];

/// Longest datagram that is looked at or made. A STUN message over UDP should fit into one packet (RFC 8489 section
/// 6.1), and more would only cost work.
const LEN_MAX: usize = 1500;

/// Type of the attribute by which a client asks for another source (RFC 5780 section 7.2).
pub(super) const CHANGE_REQUEST: u16 = 0x0003;

/// Length of type and length in front of an attribute's value.
const ATTRIBUTE_HEADER: usize = 4;

/// Which other source a client wants its answer from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flips {
    pub(super) address: bool,
    pub(super) port: bool,
}

/// A Binding request as a server reads it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) id: Id,
    pub(super) flips: Flips,
    pub(super) padded: bool,
    /// Attributes that must be understood and are not (RFC 8489 section 14).
    pub(super) unknown: Vec<u16>,
}

/// A Binding success as a client reads it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Success {
    pub(super) id: Id,
    pub(super) mapped: SocketAddr,
    pub(super) origin: Option<SocketAddr>,
    pub(super) other: Option<SocketAddr>,
}

/// Read a request; `None` if the datagram is anything else, in particular any answer.
pub(super) fn read_request(datagram: &[u8]) -> Option<Request> {
    let message = read(datagram, MessageClass::Request)?;
    let mut request = Request {
        id: *message.transaction_id().as_bytes(),
        flips: Flips::default(),
        padded: false,
        unknown: Vec::new(),
    };
    for attribute in message.attributes() {
        match attribute {
            StunAttribute::ChangeRequest(change) => {
                let flags = change.flags();
                request.flips = Flips {
                    address: flags.contains(ChangeRequestFlags::ChangeIp),
                    port: flags.contains(ChangeRequestFlags::ChangePort),
                };
            }
            StunAttribute::Padding(_) => request.padded = true,
            // RESPONSE-PORT would send the answer to where nobody asked from; support is optional (RFC 5780 section 7.5).
            StunAttribute::ResponsePort(_) => request.unknown.push(attribute.attribute_type().as_u16()),
            StunAttribute::Unknown(unknown) if unknown.attribute_type().is_comprehension_required() => {
                request.unknown.push(unknown.attribute_type().as_u16());
            }
            _ => {}
        }
    }
    Some(request)
}

/// Read a success; `None` if the datagram is anything else.
pub(super) fn read_success(datagram: &[u8]) -> Option<Success> {
    let message = read(datagram, MessageClass::SuccessResponse)?;
    let (mut mapped, mut xor_mapped, mut origin, mut other) = (None, None, None, None);
    for attribute in message.attributes() {
        match attribute {
            StunAttribute::XorMappedAddress(addr) => xor_mapped = xor_mapped.or(Some(*addr.socket_address())),
            StunAttribute::MappedAddress(addr) => mapped = mapped.or(Some(*addr.socket_address())),
            StunAttribute::ResponseOrigin(addr) => origin = Some(canonical(*addr.socket_address())),
            StunAttribute::OtherAddress(addr) => other = Some(canonical(*addr.socket_address())),
            _ => {}
        }
    }
    Some(Success {
        id: *message.transaction_id().as_bytes(),
        mapped: canonical(xor_mapped.or(mapped)?),
        origin,
        other,
    })
}

/// The id of an answer, whether it is a success or an error.
pub(super) fn read_answer_id(datagram: &[u8]) -> Option<Id> {
    let message = read(datagram, MessageClass::SuccessResponse)
        .or_else(|| read(datagram, MessageClass::ErrorResponse))?;
    Some(*message.transaction_id().as_bytes())
}

/// Write a Binding indication (RFC 8489 section 3): a message that nobody answers.
pub(super) fn write_indication(id: Id) -> Option<Vec<u8>> {
    write(MessageClass::Indication, id, Vec::new())
}

/// Write a request that is padded to `len` bytes.
pub(super) fn write_request(id: Id, flips: Flips, len: usize) -> Option<Vec<u8>> {
    let flags = match (flips.address, flips.port) {
        (false, false) => None,
        (false, true) => Some(ChangeRequestFlags::ChangePort.into()),
        (true, false) => Some(ChangeRequestFlags::ChangeIp.into()),
        (true, true) => Some(ChangeRequestFlags::ChangeIp | ChangeRequestFlags::ChangePort),
    };
    let change = flags.map(|flags| ChangeRequest::new(Some(flags)).into());
    write_padded(MessageClass::Request, id, change.into_iter().collect(), len)
}

/// Write a success, padded to `len` bytes if that is longer than it is.
pub(super) fn write_success(success: &Success, len: usize) -> Option<Vec<u8>> {
    let mapped = XorMappedAddress::from(success.mapped).into();
    let origin = success.origin.map(|origin| ResponseOrigin::from(origin).into());
    let other = success.other.map(|other| OtherAddress::from(other).into());
    let attributes = [Some(mapped), origin, other].into_iter().flatten().collect();
    write_padded(MessageClass::SuccessResponse, success.id, attributes, len)
}

/// Write the error "unknown attribute" (RFC 8489 section 14.8).
pub(super) fn write_unknown(id: Id, unknown: &[u16]) -> Option<Vec<u8>> {
    let code = stun_rs::ErrorCode::new(420, "").ok()?;
    let attributes = vec![
        ErrorCode::from(code).into(),
        UnknownAttributes::from(unknown).into(),
    ];
    write(MessageClass::ErrorResponse, id, attributes)
}

fn read(datagram: &[u8], class: MessageClass) -> Option<StunMessage> {
    if datagram.len() > LEN_MAX {
        return None;
    }
    let (message, len) = MessageDecoder::default().decode(datagram).ok()?;
    let ours = message.method() == BINDING && message.class() == class && len == datagram.len();
    let intact = match message.get::<Fingerprint>() {
        None => true,
        Some(fingerprint) => {
            let covered = get_input_text::<Fingerprint>(datagram)?;
            fingerprint
                .as_fingerprint()
                .is_ok_and(|fingerprint| fingerprint.validate(&covered))
        }
    };
    (ours && intact).then_some(message)
}

/// Write a message with PADDING (RFC 5780 section 7.6) up to a length, if there is room for it.
fn write_padded(
    class: MessageClass,
    id: Id,
    mut attributes: Vec<StunAttribute>,
    len: usize,
) -> Option<Vec<u8>> {
    let bare = write(class, id, attributes.clone())?;
    match len.min(LEN_MAX).checked_sub(bare.len() + ATTRIBUTE_HEADER) {
        None => Some(bare),
        Some(room) => {
            let text = "0".repeat(room - room % 4);
            attributes.push(Padding::new(text).ok()?.into());
            write(class, id, attributes)
        }
    }
}

fn write(class: MessageClass, id: Id, attributes: Vec<StunAttribute>) -> Option<Vec<u8>> {
    let builder = StunMessageBuilder::new(BINDING, class).with_transaction_id(id.into());
    let message = attributes
        .into_iter()
        .fold(builder, StunMessageBuilder::with_attribute)
        .build();
    let mut bytes = vec![0; LEN_MAX];
    let len = MessageEncoder::default().encode(&mut bytes, &message).ok()?;
    bytes.truncate(len);
    Some(bytes)
}
