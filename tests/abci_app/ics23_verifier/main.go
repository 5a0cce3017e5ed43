// Command ics23_verifier says of each proof on its input whether cosmos' ICS-23 verifier accepts
// it. In: a JSON array of cases, byte strings in base64. Out: a JSON array of booleans.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	ics23 "github.com/cosmos/ics23/go"
)

type proofCase struct {
	Spec  string `json:"spec"`
	Root  []byte `json:"root"`
	Key   []byte `json:"key"`
	Value []byte `json:"value"` // null asks for absence
	Proof []byte `json:"proof"`
}

var specs = map[string]*ics23.ProofSpec{"smt": ics23.SmtSpec, "simple": ics23.TendermintSpec}

// accepts treats a panic as a refusal: a proof that is not one may not pass either way.
func accepts(c proofCase) (accepted bool) {
	defer func() {
		if recover() != nil {
			accepted = false
		}
	}()
	spec := specs[c.Spec]
	var proof ics23.CommitmentProof
	if spec == nil || proof.Unmarshal(c.Proof) != nil {
		return false
	}
	if c.Value == nil {
		return ics23.VerifyNonMembership(spec, c.Root, &proof, c.Key)
	}
	return ics23.VerifyMembership(spec, c.Root, &proof, c.Key, c.Value)
}

func main() {
	var cases []proofCase
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	verdicts := make([]bool, len(cases))
	for i, c := range cases {
		verdicts[i] = accepts(c)
	}
	if err := json.NewEncoder(os.Stdout).Encode(verdicts); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
