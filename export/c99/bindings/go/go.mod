module crn_causalrn

go 1.19
