//! The acceptor's side of a context, for tests: it reads the ticket's session key from its maker and answers as brokers do.

use super::super::message::key_from_der;
use super::*;

/// What an acceptor may do differently.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Habits {
    pub(crate) own_subkey: bool,
    pub(crate) sealed: bool,
    pub(crate) rotated: u16,
    pub(crate) no_sequence: bool,
}

/// An acceptor that took the first token.
pub(crate) struct Acceptor {
    key: Key,
    pub(crate) habits: Habits,
    sequence: u64,
    initiator_sequence: u64,
}

impl Acceptor {
    /// Reads the initiator's first token with the session key and answers it.
    pub(crate) fn accept(
        token: &[u8],
        session: &Key,
        habits: Habits,
        entropy: &mut Entropy,
    ) -> (Vec<u8>, Self) {
        let (kind, inner) = unframe(token).unwrap();
        assert_eq!(kind, TOKEN_AP_REQ);
        let mut request =
            Reader::new(inner).enter(tag::application(14)).unwrap().enter(tag::SEQUENCE).unwrap();
        message::check_head(&mut request, 0, message::AP_REQ).unwrap();
        assert_eq!(request.field(2).unwrap().flags().unwrap(), MUTUAL_REQUIRED);
        request.field(3).unwrap().read_whole(tag::application(1)).unwrap();
        let encrypted = Encrypted::from_der(&mut request.field(4).unwrap()).unwrap();
        let plain = encrypted.decrypt(session, Usage::AP_REQ_AUTHENTICATOR).unwrap();
        let mut part = Reader::new(&plain).enter(tag::application(2)).unwrap().enter(tag::SEQUENCE).unwrap();
        for number in 0..4 {
            part.field(number).unwrap();
        }
        let micros = part.field(4).unwrap().integer().unwrap();
        let time = Timestamp::from_der(&mut part.field(5).unwrap()).unwrap();
        let initiators = key_from_der(&mut part.field(6).unwrap()).unwrap();
        let theirs = part.field(7).unwrap().uint32().unwrap();
        let own = habits.own_subkey.then(|| Key::random(session.enctype(), entropy).unwrap());
        let sequence = if habits.no_sequence { theirs } else { 77 };
        let subkey = own.as_ref().map(|key| {
            der::sequence(&[
                &der::field(0, &der::integer(key.enctype().number().into())),
                &der::field(1, &der::octets(key.bytes())),
            ])
        });
        let number = (!habits.no_sequence).then(|| der::integer(sequence.into()));
        let inside = der::sequence(&[
            &der::field(0, &time.to_der()),
            &der::field(1, &der::integer(micros)),
            &der::optional(2, subkey),
            &der::optional(3, number),
        ]);
        let inside = der::element(tag::application(27), &[&inside]);
        let encrypted = message::encrypted(session, Usage::AP_REP, &inside, entropy).unwrap();
        let reply = der::sequence(&[
            &der::field(0, &der::integer(5)),
            &der::field(1, &der::integer(15)),
            &der::field(2, &encrypted),
        ]);
        let reply = der::element(tag::application(15), &[&reply]);
        let token = framed(TOKEN_AP_REP, &reply);
        let key = own.unwrap_or(initiators);
        (token, Self { key, habits, sequence: sequence.into(), initiator_sequence: theirs.into() })
    }

    /// Wraps a message as the acceptor does.
    pub(crate) fn wrap(&mut self, message: &[u8], entropy: &mut Entropy) -> Vec<u8> {
        let mut flags = SENT_BY_ACCEPTOR;
        flags |= if self.habits.own_subkey { ACCEPTOR_SUBKEY } else { 0 };
        flags |= if self.habits.sealed { SEALED } else { 0 };
        let header = |extra: u16, turned: u16| {
            let mut header = vec![5, 4, flags, 0xff];
            header.extend(extra.to_be_bytes());
            header.extend(turned.to_be_bytes());
            header.extend(self.sequence.to_be_bytes());
            header
        };
        let (extra, mut body) = if self.habits.sealed {
            let plain = [message, &header(0, 0)].concat();
            (0, self.key.encrypt(Usage::ACCEPTOR_SEAL, &plain, entropy).unwrap())
        } else {
            let checksum = self.key.checksum(Usage::ACCEPTOR_SEAL, &[message, &header(0, 0)]).unwrap();
            (checksum.len() as u16, [message, &checksum].concat())
        };
        let turn = usize::from(self.habits.rotated) % body.len();
        body.rotate_right(turn);
        let token = [header(extra, self.habits.rotated).as_slice(), &body].concat();
        self.sequence += 1;
        token
    }

    /// Checks a message of the initiator.
    pub(crate) fn unwrap(&mut self, token: &[u8]) -> Vec<u8> {
        let (header, body) = token.split_first_chunk::<WRAP_HEADER>().unwrap();
        assert_eq!(header[8..], self.initiator_sequence.to_be_bytes());
        let mut signed = *header;
        signed[4..8].fill(0);
        let extra = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let (message, checksum) = body.split_at(body.len() - extra);
        assert!(self.key.verify(Usage::INITIATOR_SEAL, &[message, &signed], checksum).unwrap());
        self.initiator_sequence += 1;
        message.to_vec()
    }
}

/// A token in the framing of the GSS-API.
pub(crate) fn framed(kind: [u8; 2], inner: &[u8]) -> Vec<u8> {
    let oid = der::element(tag::OBJECT_ID, &[&KRB5_OID]);
    der::element(tag::application(0), &[&oid, &kind, inner]).to_vec()
}
